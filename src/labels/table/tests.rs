//! Tables in all formats, and what is wrong with some.

use std::sync::Arc;

use proptest::prelude::*;

use super::label_table::stem;
use super::*;
use crate::read::RawSample;
use crate::store::{Client, MemoryStore};
use crate::{ClassMap, DatafluxDataset, ErrorKind, Result};

fn csv(text: &str) -> Result<LabelTable> {
    LabelTable::reader("file").read(text.as_bytes())
}

fn json_lines(text: &str) -> Result<LabelTable> {
    LabelTable::reader("file").format(TableFormat::JsonLines).read(text.as_bytes())
}

fn said(outcome: Result<impl Sized>) -> String {
    let Err(error) = outcome else { panic!("this is an error") };
    assert_eq!(error.about(), Some("a reader"), "{error}");
    format!("{error}")
}

/// A data set of these names, as raw samples.
fn dataset(names: &[&str]) -> DatafluxDataset {
    let store = MemoryStore::new();
    for name in names {
        store.insert("bucket", &format!("p/{name}"), "x");
    }
    DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://bucket/p/").unwrap()
}

/// What a function of a table returns for each sample.
fn values<T>(dataset: &DatafluxDataset, of: impl Fn(&RawSample) -> anyhow::Result<T>) -> Vec<anyhow::Result<T>> {
    (0..dataset.len()).map(|index| of(&dataset.get(index).unwrap())).collect()
}

fn all<T>(dataset: &DatafluxDataset, of: impl Fn(&RawSample) -> anyhow::Result<T>) -> Vec<T> {
    values(dataset, of).into_iter().map(anyhow::Result::unwrap).collect()
}

#[test]
fn rows_are_found_by_their_keys_in_every_format() {
    let tables = [
        csv("file,label,x\r\nb.png,\"dog, big\",1\r\na.png,cat,2.5\r\n\r\na.png,cat,2.5").unwrap(),
        csv("\u{feff}label,x,file\n\"dog, big\",1,b.png\ncat,2.5,a.png\n").unwrap(),
        json_lines(
            "{\"file\": \"b.png\", \"label\": \"dog, big\", \"x\": 1}\n\n{\"x\": 2.5, \"file\": \"a.png\", \"label\": \"cat\"}\n",
        )
        .unwrap(),
        LabelTable::reader("file").delimiter(b';').read(&b"file;label;x\nb.png;dog, big;1\na.png;cat;2.5\n"[..]).unwrap(),
    ];
    for table in tables {
        assert_eq!((table.len(), table.is_empty()), (2, false), "{table:?}");
        assert_eq!((table.get("a.png", "label"), table.get("b.png", "label")), (Some("cat"), Some("dog, big")));
        assert_eq!(
            (table.get("b.png", "x"), table.get("c.png", "x"), table.get("a.png", "y")),
            (Some("1"), None, None)
        );
        assert_eq!(table.columns().count(), 3);
        let data = dataset(&["a.png", "b.png"]);
        assert_eq!(all(&data, table.number("x").unwrap()), [2.5, 1.0]);
        assert_eq!(all(&data, table.text("label").unwrap()), ["cat", "dog, big"]);
        assert_eq!(table.unmatched(dataset(&["b.png"]).manifest()).unwrap(), ["a.png"]);
    }
}

#[test]
fn keys_are_parts_of_names() {
    let data = dataset(&["cat/1.tar.png", "cat/.x", "noext"]);
    let table = |keys: [&str; 3], row_key| {
        let text = format!("file,n\n{},1\n{},2\n{},3\n", keys[0], keys[1], keys[2]);
        LabelTable::reader("file").row_key(row_key).read(text.as_bytes()).unwrap()
    };
    // The names in order: cat/.x is hidden, and no sample.
    assert_eq!(data.len(), 2);
    for (keys, row_key) in [
        (["cat/1.tar.png", "noext", "z"], RowKey::BelowPrefix),
        (["p/cat/1.tar.png", "p/noext", "noext"], RowKey::FullName),
        (["gs://bucket/p/cat/1.tar.png", "gs://bucket/p/noext", "gs://other/p/noext"], RowKey::FullName),
        (["cat/1.tar", "noext", "cat/1"], RowKey::Stem),
    ] {
        assert_eq!(all(&data, table(keys, row_key).number("n").unwrap()), [1.0, 2.0], "{row_key:?}");
    }
    let wrong = table(["x/1", "x/2", "x/3"], RowKey::Stem);
    let error = values(&data, wrong.number("n").unwrap()).remove(0).unwrap_err().to_string();
    for part in ["'cat/1.tar'", "first key is 'x/1'", "it is Stem now", "LeaveOut"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!([".x", "a/.x", "a.b/c", "a.b/c.d.e", "x."].map(stem), [".x", "a/.x", "a.b/c", "a.b/c.d", "x"]);
}

#[test]
fn lists_are_rows_of_numbers_and_sets_of_classes() {
    let data = dataset(&["1", "2", "3"]);
    let lines = json_lines(
        r#"{"file": "1", "box": [1, 2.5], "tags": ["sofa", "cat"], "z": 7}
           {"file": "2", "box": [3, 4], "tags": []}
           {"file": "3", "box": [5, 6], "tags": null, "z": null}"#,
    )
    .unwrap();
    assert_eq!(all(&data, lines.numbers(&["box"]).unwrap()), [[1.0, 2.5], [3.0, 4.0], [5.0, 6.0]]);
    let separated = csv("file,tags\n1, sofa | cat\n2,\n3,|\n").unwrap();
    for (table, separator) in [(&lines, "|"), (&separated, "|"), (&lines, "")] {
        let tags = table.names("tags", separator).unwrap();
        assert_eq!(tags.names(), ["cat", "sofa"]);
        let hot = all(&data, table.multi_hot("tags", separator, &tags).unwrap());
        assert_eq!(hot, [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]);
        // Validation data have the classes of the training data.
        let wider = ClassMap::new(["sofa", "dog", "cat"]).unwrap();
        assert_eq!(all(&data, table.multi_hot("tags", separator, &wider).unwrap())[0], [1.0, 0.0, 1.0]);
    }
    let columns = csv("file,x,y\n1,1,2\n2,3,4\n3,5,6\n").unwrap();
    assert_eq!(all(&data, columns.numbers(&["y", "x"]).unwrap()), [[2.0, 1.0], [4.0, 3.0], [6.0, 5.0]]);

    // An empty cell is an error of its sample alone.
    let outcomes = values(&data, lines.number("z").unwrap());
    assert_eq!(outcomes[0].as_ref().ok(), Some(&7.0));
    for (outcome, line) in outcomes[1..].iter().zip(["line 2", "line 3"]) {
        let error = outcome.as_ref().unwrap_err().to_string();
        assert!(error.contains("no value for it in column 'z'") && error.contains(line), "{error}");
    }
    let error = values(&data, lines.numbers(&["box", "z"]).unwrap()).remove(1).unwrap_err().to_string();
    assert!(error.contains("column 'z' of line 2"), "{error}");
}

#[test]
fn what_is_wrong_is_named_with_line_and_column() {
    for (text, parts) in [
        ("", &["the table is empty"][..]),
        ("file,x\n", &["has no rows"]),
        ("name,x\na,1\n", &["'file'", "[\"name\", \"x\"]"]),
        ("file,x,file\na,1,b\n", &["'file' as 1 and 3"]),
        ("file,x\na,1\n\nb\n", &["2 cells", "1 in line 4"]),
        ("file,x\r\na,\"1\r\n2\"\r\nb,1,2\r\n", &["3 in line 4"]),
        ("file,x\na,1\n,2\n", &["a name in 'file'", "none in line 3"]),
        ("file,x\nb,1\na,1\nb,2\n", &["'1' in line 2 and '2' in line 4 for 'b'", "'x'"]),
        ("file,x\na,\"1\nb,2\nc,3\n", &["no closing quote for the cell that begins in line 2"]),
        ("file,x\na,\"a dog on a", &["no closing quote for the cell that begins in line 2"]),
        ("file,x\na,\"b\nc,5\" disc\n", &["text after a closing quote in line 3"]),
    ] {
        let error = said(csv(text));
        assert!(parts.iter().all(|part| error.contains(part)), "{text:?}: {error}");
    }
    for (text, parts) in [
        ("[{\"file\": \"a\"}]\n", &["no JSON object", "line 1"][..]),
        ("{\"file\": \"a\"}\n{\"file\": b}\n", &["in line 2", "column 10"]),
        ("{\"file\": \"a\"}\n{\"x\": 1}\n", &["none in line 2"]),
        ("{\"file\": \"a\", \"x\": 1}\n{\"file\": \"b\", \"x\": 1, \"x\": 2}\n", &["'x' twice in row 2"]),
        ("", &["has no rows"]),
        ("{\"name\": \"a\"}", &["lacks a column", "'file'"]),
    ] {
        let error = said(json_lines(text));
        assert!(parts.iter().all(|part| error.contains(part)), "{text:?}: {error}");
    }
    let infinite = csv("file,n,list,nan,none,blank\na,1e39,\"[1,1e39]\",NaN,,\"[\"\" \"\"]\"\n").unwrap();
    let table = csv("file,n,list,tags\na,1,\"[1,2]\",\"[\"\"x\"\"]\"\nb,one,[1],[x]\n").unwrap();
    for (error, parts) in [
        (said(table.number("n")), &["'one' in column 'n' of line 3"][..]),
        (said(table.number("m")), &["'m'"]),
        (said(table.numbers(&["list"])), &["2 numbers, as 'a' has", "1 in column 'list' of line 3"]),
        (said(infinite.number("n")), &["a finite number", "'1e39' in column 'n' of line 2"]),
        (said(infinite.numbers(&["list"])), &["a finite number", "'[1,1e39]' in column 'list' of line 2"]),
        (said(infinite.numbers(&["nan"])), &["'NaN' in column 'nan' of line 2"]),
        (said(infinite.names("none", ";")), &["names in 'none'", "1 empty cells"]),
        (said(infinite.names("blank", ";")), &["'[\" \"]' in column 'blank' of line 2"]),
        (said(table.names("tags", ";")), &["'[x]' in column 'tags' of line 3"]),
        (
            said(table.multi_hot("file", ";", &ClassMap::new(["a"]).unwrap())),
            &["'b' in column 'file' of line 3", "1 classes"],
        ),
    ] {
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    let error = said(LabelTable::reader("file").read(&b"file\n\xff\n"[..]));
    assert!(error.contains("line 2, at byte 5"), "{error}");
    let error = said(LabelTable::reader("file").delimiter(b'"').read(&b"file\na\n"[..]));
    assert!(error.contains("0x22"), "{error}");
}

#[test]
fn a_table_above_the_limit_is_refused() {
    let reader = || LabelTable::reader("file").max_bytes(100);
    assert!(reader().read("file\n1\n2\n".as_bytes()).is_ok());
    let error = said(reader().read(format!("file\n{}\n", "x".repeat(100)).as_bytes()));
    assert!(error.contains("100 bytes at most"), "{error}");
    // Cells take more memory than the file has bytes.
    let name = "x".repeat(27);
    assert!(reader().read(format!("file\na{name}\nb{name}\n").as_bytes()).is_ok());
    let error = said(reader().read(format!("file\na{name}\nb{name}\nc{name}\n").as_bytes()));
    assert!(error.contains("100 bytes of memory") && error.contains("3 rows of 1 columns"), "{error}");
    // So do cells without text.
    let error =
        said(reader().read(format!("file{}\na{}\nb{}\n", ",".repeat(9), ",".repeat(9), ",".repeat(9)).as_bytes()));
    assert!(error.contains("as 2 and 3"), "{error}");
    let columns = ",a,b,c,d,e,f,g,h,i";
    let commas = ",".repeat(9);
    let error = said(reader().read(format!("file{columns}\na{commas}\nb{commas}\nc{commas}\n").as_bytes()));
    assert!(error.contains("3 rows of 10 columns"), "{error}");
    let lines: Vec<_> = (0..5_000).map(|n| format!("{{\"file\": \"{n}\", \"{n}\": 1}}")).collect();
    let error = said(json_lines(&lines.join("\n")));
    assert!(error.contains("4096 at most"), "{error}");
}

#[test]
fn tables_are_read_from_a_bucket_and_from_files() {
    let store = MemoryStore::new();
    let text = "file\tn\na.png\t1\n";
    store.insert("bucket", "labels.tsv", text);
    store.insert("bucket", "labels.tsv.gz", crate::encoding::tests::gzip(text.as_bytes()));
    store.insert("bucket", "labels.txt", text);
    let client = Client::new(Arc::new(store));
    let open = |name: &str| LabelTable::reader("file").open(&client, &format!("gs://bucket/{name}"));
    for name in ["labels.tsv", "labels.tsv.gz"] {
        let table = open(name).unwrap();
        assert_eq!(table.get("a.png", "n"), Some("1"));
        assert!(table.source().starts_with(&format!("gs://bucket/{name}#")), "the generation is in {}", table.source());
    }
    let error = open("labels.txt").unwrap_err();
    assert!(error.to_string().contains("ends in .csv") && error.about().unwrap().contains("labels.txt#"), "{error}");
    assert!(open("none.csv").unwrap_err().is_not_found());
    let error = LabelTable::reader("file").max_bytes(3).open(&client, "gs://bucket/labels.tsv").unwrap_err();
    assert!(error.to_string().contains("3 bytes at most") && error.about().unwrap().contains("labels.tsv#"), "{error}");

    let path = std::env::temp_dir().join(format!("dataflux-table-{}.TSV", std::process::id()));
    std::fs::write(&path, text).unwrap();
    let table = LabelTable::reader("file").open_file(&path).unwrap();
    assert_eq!((table.get("a.png", "n"), table.source()), (Some("1"), &*path.display().to_string()));
    std::fs::remove_file(&path).unwrap();
    let error = LabelTable::reader("file").open_file(&path).unwrap_err();
    assert!(error.is_not_found() && error.kind() == ErrorKind::NotFound);
}

#[cfg(feature = "parquet")]
#[test]
fn parquet_tables_have_texts_numbers_and_lists() {
    let file = include_bytes!("../../../tests/data/labels/labels.parquet");
    let read = |bytes: &[u8]| LabelTable::reader("file").format(TableFormat::Parquet).read(bytes);
    let table = read(file).unwrap();
    let data = dataset(&["1.png", "2.png", "3.png"]);
    assert_eq!(all(&data, table.text("label").unwrap()), ["cat", "dog", ""]);
    assert_eq!(all(&data, table.number("score").unwrap()), [0.1, 2.5, -3.0]);
    assert_eq!(all(&data, table.number("count").unwrap()), [1.0, 9_007_199_254_740_992.0, 3.0]);
    assert_eq!(all(&data, table.numbers(&["box"]).unwrap()), [[1.0, 2.0], [3.0, 4.0], [5.0, 6.5]]);
    assert_eq!(table.names("tags", ";").unwrap().names(), ["cat", "sofa"]);
    for length in [0, 3, file.len() / 2, file.len() - 1] {
        assert!(said(read(&file[..length])).contains("Parquet table can't be read"));
    }
}

proptest! {
    #[test]
    fn any_text_is_a_table_or_an_error_that_names_it(text in "[a\",\\r\\né{}:\\[\\]]{0,40}", is_csv: bool) {
        let text = if is_csv { format!("file,a\n{text}") } else { text };
        let format = if is_csv { TableFormat::Csv } else { TableFormat::JsonLines };
        match LabelTable::reader("file").format(format).read(text.as_bytes()) {
            Err(error) => prop_assert_eq!(error.about(), Some("a reader")),
            Ok(table) => {
                for key in (0..table.len()).map(|row| table.rows.key(row)) {
                    prop_assert!(table.get(key, "file") == Some(key) && table.get(key, "a").is_some());
                }
            }
        }
    }

    /// What is written as CSV is read as it was.
    #[test]
    fn cells_are_read_as_they_were_written(cells in prop::collection::vec("[a\",\\r\\né ]{0,6}", 1..8), crlf: bool) {
        let end = if crlf { "\r\n" } else { "\n" };
        let quoted = |cell: &str| format!("\"{}\"", cell.replace('"', "\"\""));
        let rows: Vec<_> = cells.iter().enumerate().map(|(row, cell)| format!("k{row},{}", quoted(cell))).collect();
        let table = csv(&format!("file,cell{end}{}", rows.join(end))).unwrap();
        for (row, cell) in cells.iter().enumerate() {
            prop_assert_eq!(table.get(&format!("k{row}"), "cell"), Some(cell.as_str()));
        }
    }
}
