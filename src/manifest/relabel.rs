//! Copies of a manifest with other labels, or with only its images.

use std::sync::Arc;

use super::Manifest;
use super::classes::{ClassMap, label_root, names_root};
use super::part_columns::PartColumns;
use super::sink::ObjectSink;
use crate::Result;
use crate::list::{Filter, LeftOut, is_hidden};

impl Manifest {
    /// The same objects, each labelled by the number that `classes` gives its label. Waits for the end of the listing.
    ///
    /// # Errors
    /// Labels that are none of the classes; the listing failed.
    pub(crate) fn with_classes(&self, classes: &ClassMap) -> Result<Self> {
        self.complete()?;
        let end = self.end();
        if end.labels.are_given() {
            return self.with_classes_of_given(classes);
        }
        let folders = end.labels.all();

        // Where the labels are another list of classes, they don't say which folders there are.
        if end.labels.is_class_list() && folders != classes.names() {
            return self.copied(|_, _| true, self.label_root()?, self.left_out())?.with_classes(classes);
        }

        let unknown: Vec<_> = folders
            .iter()
            .map(String::as_str)
            .filter(|folder| classes.number(folder).is_none() && !is_hidden(folder))
            .collect();
        if !unknown.is_empty() {
            return Err(classes.unknown_folders(&unknown, &self.prefix));
        }
        let labels = end.labels.renumbered(classes.names(), |folder| classes.number(folder));
        let digest = if folders == classes.names() { end.digest } else { end.digest.with_classes(classes.names()) };
        Ok(self.relabelled(labels, digest))
    }

    /// Only the objects that are images by their names, and counts of the others. Waits for the end of the listing.
    /// Nothing is copied where all objects are images. A list of classes is kept; without one, labels are the folders
    /// that hold images.
    ///
    /// # Errors
    /// There are no images; the listing failed; the manifest's file was written to since it was opened.
    pub(crate) fn images(self: &Arc<Self>) -> Result<(Arc<Self>, FoundImages)> {
        let mut found = FoundImages::default();
        let filter = Filter::everything().images();
        let mut entries = self.entries();
        while let Some(entry) = entries.next()? {
            if let Some(reason) = filter.reason_by_name(&self.prefix, entry.name) {
                found.left_out.add(reason);
                found.example.get_or_insert_with(|| entry.name.to_owned());
            }
        }
        if found.left_out.total() == 0 {
            return Ok((Arc::clone(self), found));
        }
        let mut left_out = self.left_out();
        left_out.merge(&found.left_out);
        let images = self.only(|name| filter.reason_by_name(&self.prefix, name).is_none(), left_out)?;
        Ok((Arc::new(images), found))
    }

    /// Only the objects whose names `is_kept` accepts, with the labels that they have, or the folders if these are the
    /// labels. A list of classes is kept.
    ///
    /// # Errors
    /// No object is accepted; the listing failed; the manifest's file was written to since it was opened.
    pub(super) fn only(&self, is_kept: impl Fn(&str) -> bool, left_out: LeftOut) -> Result<Self> {
        let root = self.label_root()?;
        let mut kept = self.copied(|_, name| is_kept(name), root, left_out)?;
        // Where an object beside the folder of all others was left out, names and folders begin in this folder.
        let root_of_kept = kept.label_root()?;
        if root_of_kept != root {
            kept = kept.copied(|_, _| true, root_of_kept, left_out)?;
        }

        // A saved manifest may have a list of classes, which still numbers its samples.
        match self.class_list()? {
            Some(classes) => kept.with_classes(&classes),
            None => Ok(kept),
        }
    }

    /// The [`label_root`] of the samples.
    pub(super) fn label_root(&self) -> Result<usize> {
        self.complete()?;
        let (first, last) = (self.at(0)?.name, self.at(self.len() - 1)?.name);
        Ok(label_root(&self.prefix.prefix, first.as_bytes(), last.as_bytes()))
    }

    /// Where the part of a name begins that copies of the same data have in common. Digests and splits depend on this
    /// part alone. Waits for the end of the listing.
    ///
    /// # Errors
    /// The listing failed; the manifest's file was written to since it was opened.
    pub(crate) fn names_root(&self) -> Result<usize> {
        Ok(names_root(&self.prefix.prefix, self.label_root()?))
    }

    /// A copy of the samples whose index and name `is_kept` accepts, with their further parts. Folders are labels from
    /// `root` on, unless the samples were given other labels.
    pub(super) fn copied(
        &self,
        mut is_kept: impl FnMut(u64, &str) -> bool,
        root: usize,
        left_out: LeftOut,
    ) -> Result<Self> {
        let mut kept = Vec::new();
        let is_kept = |index, name: &str| {
            let is_kept = is_kept(index, name);
            if is_kept && self.parts.is_some() {
                kept.push(index);
            }
            is_kept
        };
        let sink = self.copied_objects(is_kept, root)?;
        self.finish_copy(sink, &kept, left_out)
    }

    /// A sink with copies of the objects whose index and name `is_kept` accepts, without further parts.
    pub(super) fn copied_objects(&self, mut is_kept: impl FnMut(u64, &str) -> bool, root: usize) -> Result<ObjectSink> {
        let given = self.has_given_labels().then(|| self.labels());
        let mut sink = ObjectSink::new(self.prefix.clone(), false);
        sink.labeller.root = root;
        let mut entries = self.entries();
        let mut index = 0;
        while let Some(entry) = entries.next()? {
            if is_kept(index, entry.name) {
                match given {
                    Some(labels) => {
                        let label = entry.label.and_then(|label| labels.get(label as usize)).map(String::as_str);
                        sink.push_labelled(entry.name.as_bytes(), entry.named(()), label)?;
                    }
                    None => sink.push(entry.name.as_bytes(), entry.named(()))?,
                }
            }
            index += 1;
        }
        Ok(sink)
    }

    /// The manifest of copies of these samples, whose indexes are in order, with their further parts. Nothing is asked
    /// of the indexes if samples have no further parts.
    pub(super) fn finish_copy(&self, mut sink: ObjectSink, samples: &[u64], left_out: LeftOut) -> Result<Self> {
        let select = |parts: &Arc<PartColumns>| parts.select(samples).map_err(|part| self.damaged_part(parts, part));
        let parts = self.parts.as_ref().map(select).transpose()?;
        sink.parts = parts.as_ref().map(|parts| parts.sums);
        Ok(Self { is_listed: self.is_listed, parts: parts.map(Arc::new), ..sink.finish(left_out)? })
    }
}

/// What [`Manifest::images`] found.
#[derive(Debug, Default)]
pub(crate) struct FoundImages {
    /// Objects that aren't images.
    pub(crate) left_out: LeftOut,
    /// The first object that isn't an image.
    pub(crate) example: Option<String>,
}
