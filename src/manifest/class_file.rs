//! Lists of classes as files.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::Value;

use super::classes::ClassMap;
use super::save::save;
use crate::{Error, ErrorKind, Result, Stage};

impl ClassMap {
    /// Writes the classes into a file, whole or not at all: as an array of texts in JSON if the path ends in `.json`,
    /// otherwise as text with a line for each class. An existing file is replaced.
    ///
    /// # Errors
    /// The file can't be written; a class would not be read back from a text file as it is, for example because it ends
    /// in a carriage return.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let text = if is_json(path) {
            format!("{:#}\n", Value::from(self.names()))
        } else {
            let text = self.names().join("\n") + "\n";
            // Carriage returns at the end of a name are lost, for example.
            if let Some((name, read)) = self.names().iter().zip(lines_of(&text)).find(|(name, read)| name != read) {
                return Err(wrong(path, "a class can't be saved as a line of text")
                    .mismatch("a name that is read as it is", format_args!("{name:?}, read as {read:?}"))
                    .hint("save the classes to a path that ends in .json"));
            }
            text
        };
        save(path, "the list of classes", |mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
    }

    /// Reads a file that [`save`](Self::save) has written, or one like it: text with a class in each line, or, if the
    /// path ends in `.json`, an array of texts, or an object that maps each class to its number, as torchvision's
    /// `class_to_idx`.
    ///
    /// # Errors
    /// The file can't be read; it isn't one of these; it is no list of classes, as for [`new`](Self::new). The error
    /// names the file, and the line where there is one.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = fs::read_to_string(path).map_err(|error| {
            let kind = if error.kind() == std::io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Io };
            wrong(path, "the list of classes can't be read")
                .with_kind(kind)
                .hint("check the path; `ClassMap::save` makes such a file")
                .with_source(error)
        })?;
        if is_json(path) { of_json(path, without_mark(&text)) } else { of_lines(path, lines_of(&text).collect()) }
    }
}

/// The text without the byte order mark that some programs begin a file with.
fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

fn lines_of(text: &str) -> impl Iterator<Item = &str> {
    without_mark(text).lines()
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("json"))
}

fn wrong(path: &Path, message: &str) -> Error {
    Error::new(ErrorKind::Config, message).stage(Stage::Manifest).object(path.display())
}

/// The hint for a file whose contents are wrong.
const CORRECT: &str = "correct the file, or save the classes of the training data again: train.class_map()?.save(path)";

fn of_lines(path: &Path, lines: Vec<&str>) -> Result<ClassMap> {
    if let Some(empty) = lines.iter().position(|line| line.is_empty()) {
        return Err(wrong(path, "a line of the list of classes is empty")
            .mismatch("a class in each line", format_args!("none in line {}", empty + 1))
            .hint(CORRECT));
    }
    let mut sorted: Vec<usize> = (0..lines.len()).collect();
    sorted.sort_by_key(|&line| lines[line]);
    if let Some(twice) = sorted.windows(2).find(|pair| lines[pair[0]] == lines[pair[1]]) {
        let got = format!("'{}' in line {} and in line {}", lines[twice[0]], twice[0] + 1, twice[1] + 1);
        return Err(wrong(path, "a class is in the list twice").mismatch("each once", got).hint(CORRECT));
    }
    ClassMap::new(lines).map_err(|error| error.object(path.display()))
}

fn of_json(path: &Path, text: &str) -> Result<ClassMap> {
    const WANTED: &str = "an array of texts, or an object that maps each class to its number";
    let value: Value = serde_json::from_str(text).map_err(|error| {
        // Its message names line and column.
        wrong(path, "the list of classes is no JSON").hint(CORRECT).with_source(error)
    })?;
    let mismatch = |got: String| wrong(path, "this JSON is no list of classes").mismatch(WANTED, got).hint(CORRECT);
    let names: Vec<String> = match value {
        Value::Array(names) => {
            let name = |(index, name): (usize, Value)| match name {
                Value::String(name) => Ok(name),
                other => Err(mismatch(format!("{other} as element {index}"))),
            };
            names.into_iter().enumerate().map(name).collect::<Result<_>>()?
        }
        Value::Object(numbers) => {
            let mut names = vec![None; numbers.len()];
            for (name, number) in numbers {
                let place = number.as_u64().and_then(|number| names.get_mut(usize::try_from(number).ok()?));
                match place {
                    Some(place @ None) => *place = Some(name),
                    Some(Some(before)) => {
                        return Err(mismatch(format!("'{before}' and '{name}', both of number {number}")));
                    }
                    None => return Err(mismatch(format!("'{name}' of number {number}, among {}", names.len()))),
                }
            }
            names.into_iter().flatten().collect()
        }
        other => return Err(mismatch(other.to_string().chars().take(40).collect())),
    };
    ClassMap::new(names).map_err(|error| error.object(path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("dataflux-classes-{}-{name}", std::process::id()))
    }

    #[test]
    fn classes_are_read_back_as_they_were_saved() {
        let odd =
            ClassMap::new(["dog", "cat/tabby", " two words ", "\"quoted\"", "Bär", "[0]", "\u{feff}mark"]).unwrap();
        for (name, classes) in [("a.json", &odd), ("a.txt", &odd), ("a.JSON", &odd)] {
            let path = file(name);
            classes.save(&path).unwrap();
            assert_eq!(&ClassMap::load(&path).unwrap(), classes, "{name}");
            fs::remove_file(&path).unwrap();
        }
        for odd in [["a\r", "b"], ["\u{feff}a", "b"]] {
            let odd = ClassMap::new(odd).unwrap();
            let path = file("b.txt");
            assert!(odd.save(&path).unwrap_err().to_string().contains(".json"));
            assert!(!path.exists());
            let path = file("b.json");
            odd.save(&path).unwrap();
            assert_eq!(ClassMap::load(&path).unwrap(), odd);
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn files_of_other_programs_are_read() {
        for (name, text) in [
            ("c.txt", "cat\r\ndog"),
            ("c1.txt", "\u{feff}cat\ndog\n"),
            ("c.json", r#"["cat", "dog"]"#),
            ("c1.json", r#"{"dog": 1, "cat": 0}"#),
        ] {
            let path = file(name);
            fs::write(&path, text).unwrap();
            assert_eq!(ClassMap::load(&path).unwrap().names(), ["cat", "dog"], "{name}");
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn what_is_no_list_is_named_with_file_and_line() {
        for (name, text, said) in [
            ("d.txt", "cat\n\ndog\n", "line 2"),
            ("d1.txt", "cat\ndog\ncat\n", "'cat' in line 1 and in line 3"),
            ("d2.txt", "", "at least one class"),
            ("d.json", "[\"cat\",\n dog]", "line 2 column 2"),
            ("d1.json", r#"["cat", 7]"#, "7 as element 1"),
            ("d2.json", r#"["cat", "cat"]"#, "'cat' as 0 and 1"),
            ("d3.json", r#"{"cat": 0, "dog": 0}"#, "both of number 0"),
            ("d4.json", r#"{"cat": 1, "dog": 2}"#, "'dog' of number 2, among 2"),
            ("d5.json", r#"{"cat": -1}"#, "'cat' of number -1, among 1"),
            ("d6.json", "3", "object that maps"),
            ("d7.json", "[]", "at least one class"),
        ] {
            let path = file(name);
            fs::write(&path, text).unwrap();
            let error = ClassMap::load(&path).unwrap_err();
            let text = format!("{:#}", anyhow::Error::from(error));
            assert!(text.contains(said) && text.contains(&*path.display().to_string()), "{name}: {text}");
            fs::remove_file(&path).unwrap();
        }
        assert!(ClassMap::load(file("none.json")).unwrap_err().is_not_found());
    }
}
