//! Labels that aren't those of folders: copies of a manifest whose records have them.

use std::borrow::Cow;
use std::sync::Arc;

use super::classes::{ClassMap, listed};
use super::digest::{LabelsDigest, ObjectsDigest};
use super::sink::ObjectSink;
use super::{LeftOut, Manifest};
use crate::list::{Prefix, Reason};
use crate::{Error, ErrorKind, Result, Stage};

/// What a data set does with samples that have no label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unlabelled {
    /// They are an error, which names the first ones and how many there are.
    #[default]
    Error,
    /// They are left out. [`Manifest::left_out`] counts them as [`Reason::Unlabelled`],
    /// and a log line reports them.
    LeaveOut,
}

/// Where labels come from.
pub(crate) trait LabelSource {
    /// The label of a sample; `None` where it has none. `path` is the part of its name from the
    /// [`label_root`](Manifest::label_root) on, where folders are labels, which depends on the other names.
    fn label<'a>(&'a self, name: SampleName<'a>, path: &'a str) -> Option<Cow<'a, str>>;

    /// What samples lack that have no label, for an error.
    fn what(&self) -> &'static str {
        "label"
    }

    /// Which folder on the path of a sample is its label, counted from 0; `None` where labels aren't folders. The first
    /// folders are also the labels without a source.
    fn folder_depth(&self) -> Option<usize> {
        None
    }

    /// What a sample needs to have a label, for an error.
    fn wanted(&self) -> String;

    /// What to do about samples without a label, for an error.
    fn hint(&self) -> String;
}

/// The name of a sample, of which patterns, tables and functions use different parts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SampleName<'a> {
    pub(crate) prefix: &'a Prefix,
    pub(crate) whole: &'a str,
}

impl<'a> SampleName<'a> {
    /// The part below the last `/` of the prefix.
    pub(crate) fn below(self) -> &'a str {
        self.prefix.below(self.whole)
    }
}

/// Samples without a label.
#[derive(Debug, Default)]
pub(crate) struct UnlabelledSamples {
    pub(crate) count: u64,
    /// The first ones.
    pub(crate) names: Vec<String>,
}

/// How many samples without a label are named.
const NAMED: usize = 5;

impl UnlabelledSamples {
    fn add(&mut self, name: &str) {
        self.count += 1;
        if self.names.len() < NAMED {
            self.names.push(name.to_owned());
        }
    }

    fn merge(&mut self, more: Self) {
        self.count += more.count;
        self.names.extend(more.names);
        self.names.truncate(NAMED);
    }

    /// The names of the first ones, and how many more there are.
    pub(crate) fn listed(&self) -> String {
        let more = self.count - self.names.len() as u64;
        let named = listed(self.names.iter().map(String::as_str), self.names.len());
        if more > 0 { format!("{named} and {more} more") } else { named }
    }
}

impl Manifest {
    /// Whether the labels aren't those of folders. Doesn't wait: those of a listing that is running are.
    pub(crate) fn has_given_labels(&self) -> bool {
        self.growth.ended().is_some_and(|end| end.labels.are_given())
    }

    /// The list of classes that numbers the labels, if there is one. Waits for the end of the listing.
    ///
    /// # Errors
    /// The manifest's file has a list that can't be one.
    pub(crate) fn class_list(&self) -> Result<Option<ClassMap>> {
        let has_list = self.end().labels.is_class_list();
        has_list.then(|| ClassMap::new(self.labels())).transpose()
    }

    /// The samples that have no label. Waits for the end of the listing, and reads all samples.
    ///
    /// # Errors
    /// The listing failed; the manifest's file was written to since it was opened.
    pub(crate) fn without_label(&self) -> Result<UnlabelledSamples> {
        let mut without = UnlabelledSamples::default();
        let mut entries = self.entries();
        while let Some(entry) = entries.next()? {
            if entry.label.is_none() {
                without.add(entry.name);
            }
        }
        Ok(without)
    }

    /// A copy of the samples with labels of `source`, in byte order, and the samples that have none. Waits for the end
    /// of the listing.
    ///
    /// # Errors
    /// Samples without a label, or all of them where they are left out; a label that can't be one; the listing failed;
    /// the manifest's file was written to since it was opened.
    pub(crate) fn labelled_by(
        &self,
        source: &dyn LabelSource,
        unlabelled: Unlabelled,
    ) -> Result<(Self, UnlabelledSamples)> {
        self.complete()?;
        let root = self.label_root()?;
        let mut without = UnlabelledSamples::default();
        let mut sink = ObjectSink::new(self.prefix.clone(), false);
        sink.labeller.root = root;
        let depth = source.folder_depth();

        let mut entries = self.entries();
        let (mut kept, mut next) = (Vec::new(), 0);
        while let Some(entry) = entries.next()? {
            let index = next;
            next += 1;
            let Some(label) = source.label(self.sample_name(entry.name), entry.name.get(root..).unwrap_or_default())
            else {
                without.add(entry.name);
                continue;
            };
            if label.is_empty() || label.contains('\n') {
                return Err(Error::new(ErrorKind::Config, "this can't be the label of a sample")
                    .stage(Stage::Manifest)
                    .object(self.prefix.uri(entry.name))
                    .mismatch("a text without line feeds, not empty", format_args!("'{}'", label.escape_debug()))
                    .hint("correct the label where it comes from"));
            }
            if depth == Some(0) {
                sink.push(entry.name.as_bytes(), entry.named(()))?;
            } else {
                sink.push_labelled(entry.name.as_bytes(), entry.named(()), Some(&label))?;
            }
            if self.parts.is_some() {
                kept.push(index);
            }
        }

        let left_out = self.left_out_without(&without, source, unlabelled)?;
        let labelled = self.finish_copy(sink, &kept, left_out)?;

        // Where a sample beside the folder of all others was left out, names and folders begin in this folder, as if
        // the sample had never been there.
        if labelled.label_root()? == root {
            return Ok((labelled, without));
        }
        if depth.is_none() {
            return Ok((labelled.only(|_| true, left_out)?, without));
        }
        let (labelled, more) = labelled.labelled_by(source, unlabelled)?;
        without.merge(more);
        Ok((labelled, without))
    }

    /// The samples that `source` has a label of, with the labels that they have, and those that it has none of. Waits
    /// for the end of the listing. Nothing is copied where no sample is left out.
    ///
    /// # Errors
    /// As for [`labelled_by`](Self::labelled_by).
    pub(crate) fn only_labelled(
        self: &Arc<Self>,
        source: &dyn LabelSource,
        unlabelled: Unlabelled,
    ) -> Result<(Arc<Self>, UnlabelledSamples)> {
        self.complete()?;
        let root = self.label_root()?;
        let is_labelled =
            |name: &str| source.label(self.sample_name(name), name.get(root..).unwrap_or_default()).is_some();
        let mut without = UnlabelledSamples::default();
        let mut entries = self.entries();
        while let Some(entry) = entries.next()? {
            if !is_labelled(entry.name) {
                without.add(entry.name);
            }
        }
        let left_out = self.left_out_without(&without, source, unlabelled)?;
        if without.count == 0 {
            return Ok((Arc::clone(self), without));
        }
        Ok((Arc::new(self.only(is_labelled, left_out)?), without))
    }

    /// Calls `take` with the name of each sample, in order. Waits for the end of the listing.
    ///
    /// # Errors
    /// The listing failed; the manifest's file was written to since it was opened.
    pub(crate) fn for_each_name(&self, mut take: impl FnMut(SampleName<'_>)) -> Result<()> {
        let mut entries = self.entries();
        while let Some(entry) = entries.next()? {
            take(self.sample_name(entry.name));
        }
        Ok(())
    }

    /// The name of one of the samples.
    pub(crate) fn sample_name<'a>(&'a self, name: &'a str) -> SampleName<'a> {
        SampleName { prefix: &self.prefix, whole: name }
    }

    /// The counts of what is left out together with samples without a label.
    ///
    /// # Errors
    /// These are to be an error, or nothing is left.
    fn left_out_without(
        &self,
        without: &UnlabelledSamples,
        source: &dyn LabelSource,
        unlabelled: Unlabelled,
    ) -> Result<LeftOut> {
        let mut left_out = self.left_out();
        if without.count > 0 {
            if unlabelled == Unlabelled::Error || without.count == self.len() {
                return Err(self.unlabelled(without, source));
            }
            left_out.add_many(Reason::Unlabelled, without.count);
        }
        Ok(left_out)
    }

    fn unlabelled(&self, without: &UnlabelledSamples, source: &dyn LabelSource) -> Error {
        let samples = if self.len() == 1 { "sample" } else { "samples" };
        let have = if without.count == 1 { "has" } else { "have" };
        let message = format!("{} of {} {samples} {have} no {}", without.count, self.len(), source.what());
        Error::new(ErrorKind::Config, message)
            .stage(Stage::Manifest)
            .object(&self.prefix)
            .mismatch(source.wanted(), without.listed())
            .hint(format!(
                "{}; or leave such samples out: Unlabelled::LeaveOut, or .decode(ImageFolder) before, for what is no image",
                source.hint()
            ))
    }

    /// [`with_classes`](Self::with_classes) of labels that aren't those of folders.
    pub(super) fn with_classes_of_given(&self, classes: &ClassMap) -> Result<Self> {
        let root = self.names_root()?;
        let (mut objects, mut given) = (ObjectsDigest::default(), LabelsDigest::default());
        let names = self.labels();
        let mut occurs = vec![false; names.len()];
        let mut entries = self.entries();
        while let Some(entry) = entries.next()? {
            objects.push(entry.name.as_bytes().get(root..).unwrap_or_default(), &entry);
            given.push(entry.label);
            if let Some(occurs) = entry.label.and_then(|label| occurs.get_mut(label as usize)) {
                *occurs = true;
            }
        }

        let occurring = names.iter().zip(occurs).filter(|(_, occurs)| *occurs).map(|(name, _)| name.as_str());
        let unknown: Vec<_> = occurring.filter(|name| classes.number(name).is_none()).collect();
        if !unknown.is_empty() {
            return Err(classes.unknown_labels(&unknown, &self.prefix));
        }
        let class_of = |label: u32| names.get(label as usize).and_then(|name| classes.number(name));
        let digest = given.finish(self.of_all_parts(objects.finish()), classes.names(), class_of);
        let labels = self.end().labels.renumbered(classes.names(), |name| classes.number(name));
        Ok(self.relabelled(labels, digest))
    }
}
