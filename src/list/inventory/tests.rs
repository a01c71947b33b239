use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::report::{FolderContents, ReportManifest, find};
use super::row::{FIELDS, FieldColumns, ReportCell, ReportField, RowBatch, RowFilter};
use super::shard::{ShardLocation, VerifiedFile};
use super::{Format, csv};
use crate::store::{Client, ContentEncoding, Fault, FaultStore, MemoryStore, ObjectId, StorageClass, StoreCall};
use crate::{Error, ErrorKind, Result};

fn row_filter() -> RowFilter {
    RowFilter { bucket: "cats".into(), prefix: "train/".into() }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn row<'a>(cells: &[(ReportField, ReportCell<'a>)]) -> [ReportCell<'a>; FIELDS] {
    let mut row = [ReportCell::Null; FIELDS];
    row[ReportField::Name as usize] = ReportCell::Text(b"train/tom");
    row[ReportField::Size as usize] = ReportCell::Text(b"9");
    row[ReportField::Generation as usize] = ReportCell::Int(7);
    for (field, cell) in cells {
        row[*field as usize] = *cell;
    }
    row
}

/// The batch that a row makes.
fn apply(cells: &[(ReportField, ReportCell<'_>)]) -> Result<RowBatch> {
    let mut batch = RowBatch::default();
    row_filter().apply(&row(cells), &mut batch).map_err(|mismatch| mismatch.at("row 1")).map(|()| batch)
}

#[test]
fn a_report_is_found_by_its_names() {
    let key = "inv/1a34_2024-05-20T06:35";
    let shards = |of: &[u32]| of.iter().map(|i| format!("{key}_{i}.parquet")).collect::<Vec<_>>();
    let mut all = shards(&[1, 0, 10, 2, 3, 4, 5, 6, 7, 8, 9]);
    all.push("inv/_SUCCESS".into());
    // By number, not by name.
    assert_eq!(find(all.clone()).unwrap(), FolderContents::Shards(shards(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10])));
    all.push(format!("{key}_manifest.json"));
    let FolderContents::Manifest { manifest, shards: beside } = find(all.clone()).unwrap() else {
        panic!("a manifest")
    };
    assert_eq!((manifest, beside.len()), (format!("{key}_manifest.json"), 11));

    all.push("inv/1a34_2024-05-21T06:35_0.parquet".into());
    let error = find(all).unwrap_err().to_string();
    assert!(error.contains("2: inv/1a34_2024-05-20T06:35, inv/1a34_2024-05-21T06:35"), "{error}");
    assert!(error.contains("manifest.json"), "{error}");

    for (there, kind, said) in [
        (shards(&[0, 2]), ErrorKind::NotFound, "_2.parquet out of turn"),
        (shards(&[2, 3]), ErrorKind::NotFound, "_2.parquet out of turn"),
        (names(&["a_0.csv", "a_0.parquet"]), ErrorKind::NotFound, "there twice"),
        (names(&["notes.txt", "a.csv.gz"]), ErrorKind::NotFound, "no inventory report"),
        (names(&["a_manifest.json", "b_manifest.json"]), ErrorKind::Config, "more than one"),
        (names(&["a.csv", "b.csv"]), ErrorKind::Config, "more than one"),
    ] {
        let error = find(there).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(said), "{error}");
    }
    assert_eq!(find(names(&["report.csv"])).unwrap(), FolderContents::Shards(names(&["report.csv"])));
    assert!(matches!(find(names(&["d/manifest.json", "d/x_0.csv"])).unwrap(), FolderContents::Manifest { .. }));
    assert_eq!(
        (Format::of("a.parquet"), Format::of("a.csv"), Format::of("csv")),
        (Some(Format::Parquet), Some(Format::Csv), None)
    );
}

#[test]
fn a_manifest_is_read_in_either_spelling() {
    let parse = |json: &str| ReportManifest::parse(json.as_bytes());
    let snake = r#"{"report_config": {"display_name": "x"}, "records_processed": 3, "shard_count": 2,
        "snapshot_time": "2024-05-20T06:35:00Z", "report_shards_file_names": ["a_0.csv", "a_1.csv"]}"#;
    let said = parse(snake).unwrap();
    assert_eq!((said.shards, said.records), (names(&["a_0.csv", "a_1.csv"]), Some(3)));
    assert_eq!(said.snapshot_time.as_deref(), Some("2024-05-20T06:35:00Z"));
    let camel = r#"{"recordsProcessed": "3", "reportNames": ["gs://b/x/a_0.csv"]}"#;
    assert_eq!(parse(camel).unwrap().shards, ["a_0.csv"]);
    for (json, said) in [
        ("{}", "report_shards_file_names"),
        ("name,size", "isn't the manifest"),
        (r#"{"report_shards_file_names": ["a", "a"]}"#, "2 names of which 1 differ"),
        (r#"{"report_shards_file_names": ["a"], "shard_count": 2}"#, "wanted 2 shards"),
        (r#"{"report_shards_file_names": [], "records_processed": "-1"}"#, "a whole number"),
    ] {
        let error = parse(json).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn columns_are_found_by_name_in_any_order() {
    let columns = FieldColumns::of(["etag", "generation", "NAME", "size"].into_iter()).unwrap();
    assert_eq!((columns.get(ReportField::Name), columns.get(ReportField::Bucket), columns.width), (Some(2), None, 4));
    for (header, said) in [
        ("name,size", "no column generation"),
        ("bucket,project", "no column name and size and generation"),
        ("cats,train/a,3,1716", "no header"),
        ("name,size,generation,name", "a column comes twice"),
    ] {
        let error = FieldColumns::of(header.split(',')).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(said), "{error}");
    }
    let error = FieldColumns::of(["name", "size"].into_iter()).unwrap_err().to_string();
    assert!(error.contains("--add-metadata-fields"), "{error}");
}

#[test]
fn cells_are_parsed_and_impossible_values_refused() {
    let one = |cells: &[(ReportField, ReportCell<'_>)]| {
        apply(cells).unwrap().objects.get(0).map(|object| format!("{object:?}"))
    };
    let object = apply(&[
        (ReportField::Crc32c, ReportCell::Text(b"4waSgw==")),
        (ReportField::StorageClass, ReportCell::Text(b"ARCHIVE")),
        (ReportField::ContentEncoding, ReportCell::Text(b"gzip")),
        (ReportField::Bucket, ReportCell::Text(b"cats")),
        (ReportField::Updated, ReportCell::Int(1_500_000)),
        (ReportField::TimeDeleted, ReportCell::Int(0)),
    ])
    .unwrap();
    let object = object.objects.get(0).unwrap();
    assert_eq!((object.name, object.size, object.version), ("train/tom", 9, 7.into()));
    assert_eq!((object.crc32c, object.storage_class), (Some(0xE306_9283), StorageClass::Archive));
    assert_eq!(object.encoding, ContentEncoding::Gzip);
    assert_eq!(object.updated, Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_500)));
    // Storage Insights has CRCs as numbers elsewhere.
    assert_eq!(
        one(&[(ReportField::Crc32c, ReportCell::Int(5))]),
        one(&[(ReportField::Crc32c, ReportCell::Text(b"5"))])
    );
    assert_eq!(
        one(&[(ReportField::Crc32c, ReportCell::Text(b"AAAABQ=="))]),
        one(&[(ReportField::Crc32c, ReportCell::Text(b"5"))])
    );
    assert_ne!(one(&[]), one(&[(ReportField::Crc32c, ReportCell::Text(b"AAAAAA=="))]));
    // A zero may be left out; the CRC proves that it is one.
    assert!(one(&[(ReportField::Size, ReportCell::Null), (ReportField::Crc32c, ReportCell::Int(0))]).is_some());

    for (field, cell, wanted) in [
        (ReportField::Name, ReportCell::Null, "a name of 1 to 1,024 bytes"),
        (ReportField::Name, ReportCell::Text(&[b'x'; 1025]), "a name of 1 to 1,024 bytes"),
        (ReportField::Name, ReportCell::Int(1), "a name of 1 to 1,024 bytes"),
        (ReportField::Name, ReportCell::Text(b"train/\xff"), "a name in UTF-8"),
        (ReportField::Name, ReportCell::Text(b"train/\n"), "without CR and LF"),
        (ReportField::Size, ReportCell::Null, "a number of bytes"),
        (ReportField::Size, ReportCell::Text(b"-1"), "a number of bytes"),
        (ReportField::Size, ReportCell::Text(b"18446744073709551616"), "a number of bytes"),
        (ReportField::Size, ReportCell::Text(b"1e3"), "a number of bytes"),
        (ReportField::Generation, ReportCell::Text(b"0"), "a generation"),
        (ReportField::Generation, ReportCell::Int(-5), "a generation"),
        (ReportField::Generation, ReportCell::Null, "got nothing"),
        (ReportField::Crc32c, ReportCell::Text(b"AAAAAAA="), "base64 of four bytes"),
        (ReportField::Crc32c, ReportCell::Text(b"4294967296"), "base64 of four bytes"),
    ] {
        let error = apply(&[(field, cell)]).unwrap_err().to_string();
        assert!(error.contains(wanted) && error.contains(field.as_str()) && error.contains("row 1"), "{error}");
    }
}

#[test]
fn rows_that_are_not_wanted_are_counted() {
    let counts = |field, cell| {
        let batch = apply(&[(field, cell)]).unwrap();
        assert!(batch.objects.is_empty());
        let counts = batch.counts;
        (counts.rows, counts.other_buckets, counts.other_names, counts.deleted)
    };
    assert_eq!(counts(ReportField::Bucket, ReportCell::Text(b"dogs")), (1, 1, 0, 0));
    assert_eq!(counts(ReportField::Name, ReportCell::Text(b"test/tom")), (1, 0, 1, 0));
    assert_eq!(counts(ReportField::TimeDeleted, ReportCell::Text(b"2024-05-20T06:35:00Z")), (1, 0, 0, 1));
    assert_eq!(counts(ReportField::SoftDeleteTime, ReportCell::Int(1)), (1, 0, 0, 1));
}

#[test]
fn times() {
    let told = |text: &str| {
        let batch = apply(&[(ReportField::Updated, ReportCell::Text(text.as_bytes()))]).unwrap();
        batch.objects.get(0).unwrap().updated
    };
    for (text, micros) in [
        ("1970-01-01T00:00:00Z", 0),
        ("2000-02-29T23:59:59.5Z", 951_868_799_500_000),
        ("2024-05-20 06:35:00.123456 UTC", 1_716_186_900_123_456),
        ("2024-05-20T06:35:00+00:00", 1_716_186_900_000_000),
        ("2100-03-01T00:00:00", 4_107_542_400_000_000),
    ] {
        assert_eq!(told(text), Some(SystemTime::UNIX_EPOCH + Duration::from_micros(micros)), "{text}");
    }
    for text in [
        "yesterday",
        "2024-13-01T00:00:00Z",
        "2024-05-20",
        "2023-02-30T00:00:00Z",
        "2024-05-20T06:35:00+05:00",
        "1969-12-31T23:59:59Z",
        "é",
    ] {
        assert_eq!(told(text), None, "{text}");
    }
}

proptest! {
    #[test]
    fn times_agree_with_another_reader_of_them(seconds in 0u64..10_000_000_000, nanos in 0u32..1_000_000_000) {
        let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
        let text = humantime::format_rfc3339_nanos(time).to_string();
        let batch = apply(&[(ReportField::Updated, ReportCell::Text(text.as_bytes()))]).unwrap();
        prop_assert_eq!(batch.objects.get(0).unwrap().updated, Some(time));
    }

    #[test]
    fn no_cell_panics(text in prop::collection::vec(any::<u8>(), 0..40), number in any::<i64>(), field in 0..FIELDS) {
        let _ = apply(&[(ReportField::ALL[field], ReportCell::text(&text))]);
        let _ = apply(&[(ReportField::ALL[field], ReportCell::Int(number))]);
    }
}

/// A file that is too large to be held is verified block by block when a part of it is read.
#[test]
fn a_bit_that_flips_after_the_whole_was_proved_is_found() {
    let bytes: Vec<u8> = (0..(9u32 << 20) + 5).map(|at| (at % 251) as u8).collect();
    let store = MemoryStore::new();
    store.insert("reports", "x_0.parquet", bytes.clone());
    let run = |flips: &[u64], held: u64, range: std::ops::Range<u64>| {
        let mut store = FaultStore::new(Arc::new(store.clone()));
        for read in flips {
            store = store.fail(StoreCall::Get, *read, Fault::FlipAt(70_000));
        }
        let client = Client::new(Arc::new(store.clone()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let read = runtime.block_on(async {
            let id = ObjectId::live("reports", "x_0.parquet");
            let place = ShardLocation::Object(id, Some(crc32c::crc32c(&bytes)));
            VerifiedFile::new(&client, &place, bytes.len() as u64, held).await?.read(&client, range.clone()).await
        });
        let gets = store.gets().len();
        read.map(|read| (read == bytes[range.start as usize..range.end as usize], gets))
    };
    let (all, part) = (0..bytes.len() as u64, (3 << 20) + 7..(5 << 20) + 9);
    for range in [all, part.clone(), 9 << 20..(9 << 20) + 5, 0..1] {
        for held in [0, u64::MAX] {
            let more = u64::from(held == 0);
            assert_eq!(run(&[], held, range.clone()).unwrap(), (true, 2 + more as usize), "{range:?}");
            assert_eq!(run(&[1], held, range.clone()).unwrap(), (true, 4 + more as usize), "{range:?}");
        }
    }
    assert_eq!(run(&[3, 4], 0, part.clone()).unwrap(), (true, 5));
    for flips in [[1, 3, 5, 7], [3, 4, 5, 6]] {
        let error = run(&flips, 0, part.clone()).unwrap_err();
        assert!(error.kind() == ErrorKind::Integrity && error.to_string().contains("x_0.parquet"), "{error}");
    }
}

/// Parses pieces of a CSV file.
fn parse(pieces: &[&[u8]]) -> Result<(RowBatch, csv::FileEnd)> {
    let (mut parser, mut batch) = (csv::CsvParser::new(row_filter()), RowBatch::default());
    for piece in pieces {
        parser.push(piece, &mut batch)?;
    }
    let ending = parser.finish(&mut batch)?;
    Ok((batch, ending))
}

fn refusal(text: &str) -> Error {
    parse(&[text.as_bytes()]).map(|(batch, ending)| format!("{batch:?} {ending:?}")).unwrap_err()
}

#[test]
fn any_delimiter_of_one_byte_is_found() {
    for delimiter in [",", ";", "\t", "|", ":", " ", "~", "\x01"] {
        for header in ["name,size,generation", "\u{feff}\"name\",\"size\",\"generation\""] {
            let text = format!("{header}\n\"train/a,b\",2,3\n").replace(',', delimiter);
            let (batch, ending) = parse(&[text.as_bytes()]).unwrap();
            assert_eq!(batch.objects.name(0), Some(&*format!("train/a{delimiter}b")), "{text}");
            assert_eq!(ending, csv::FileEnd::Whole);
        }
    }
}

#[test]
fn bad_rows_are_named_by_their_line() {
    let head = "size,name,generation\r\n1,train/a,1\r\n";
    for (rest, said) in [
        ("x,train/b,1\r\n", "line 3, column size"),
        ("1,train/b,1\r\n1,train/c,\r\n", "line 4, column generation"),
        ("1,train/b\r\n", "line 3: the row has another number of columns than the header (wanted 3 columns, got 2)"),
        ("1,train/b,1,1\r\n", "line 3"),
        ("1,train/b", "line 3"),
        ("1,\"train/b,1\r\n1,train/c,1\r\n", "line 3"),
    ] {
        let error = refusal(&format!("{head}{rest}"));
        assert!(error.to_string().contains(said), "{error}");
    }
    let endless = format!("{head}1,\"train/b\n{}", "1,train/c,1\n".repeat(200_000));
    let error = refusal(&endless);
    assert!(error.to_string().contains("line 3: the row doesn't end"), "{error}");
    for text in ["", "\n\n", "cats,train/a,1\n", "size,name\n"] {
        assert_eq!(refusal(text).kind(), ErrorKind::Config, "{text}");
    }
}

#[test]
fn how_a_file_ends_is_seen() {
    let ending = |text: &str| parse(&[text.as_bytes()]).unwrap().1;
    assert_eq!(ending("name,size,generation\n"), csv::FileEnd::Whole);
    assert_eq!(ending("name,size,generation\ntrain/a,1,17"), csv::FileEnd::InField);
    assert_eq!(ending("name,size,generation,etag\ntrain/a,1,17,C"), csv::FileEnd::AfterRow);
    assert_eq!(ending("name,size,generation,etag\ntrain/a,1,17,\"C\n"), csv::FileEnd::InQuotes);
    assert_eq!(ending("name,size,generation,etag\ntrain/a,1,17,\"C\"\n"), csv::FileEnd::Whole);
}

proptest! {
    #[test]
    fn csv_is_read_alike_however_it_is_cut(
        tails in prop::collection::vec("[a\",;é😀 '\\\\|\t]{0,8}", 1..20),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        all_quoted in any::<bool>(),
        crlf in any::<bool>(),
    ) {
        let quoted = |text: &str| {
            if all_quoted || text.contains([',', '"']) {
                format!("\"{}\"", text.replace('"', "\"\""))
            } else {
                text.to_owned()
            }
        };
        let end = if crlf { "\r\n" } else { "\n" };
        let head = format!("etag,name,size,generation{end}");
        let row = |tail: &String| format!("{},{},5,6{end}", quoted(tail), quoted(&format!("train/{tail}")));
        let rows = tails.iter().map(row).collect::<Vec<_>>().concat();
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(rows.len() + 1)).collect();
        at.sort_unstable();
        let mut pieces = vec![head.as_bytes()];
        let mut from = 0;
        for to in at.into_iter().chain([rows.len()]) {
            pieces.push(&rows.as_bytes()[from..to]);
            from = to;
        }
        let (batch, ending) = parse(&pieces).unwrap();
        prop_assert_eq!(ending, csv::FileEnd::Whole);
        let names: Vec<String> = tails.iter().map(|tail| format!("train/{tail}")).collect();
        prop_assert!(batch.objects.iter().map(|object| object.name).eq(names.iter().map(|name| &**name)));
    }

    #[test]
    fn a_csv_cut_anywhere_is_never_taken_for_whole(
        tails in prop::collection::vec("[a\",é]{0,8}", 1..6), cut in any::<prop::sample::Index>(),
    ) {
        let row = |tail: &String| format!("\"train/{}\",5,6\n", tail.replace('"', "\"\""));
        let rows: Vec<String> = tails.iter().map(row).collect();
        let text = format!("name,size,generation\n{}", rows.concat());
        let cut = cut.index(text.len());
        let parsed = parse(&[&text.as_bytes()[..cut]]);
        if let Ok((batch, csv::FileEnd::Whole)) = parsed {
            // Between two rows, or right after the header: what only the count of rows can tell.
            let whole: String = rows.iter().take(batch.objects.len()).map(String::as_str).collect();
            prop_assert_eq!(format!("name,size,generation\n{whole}").len(), cut);
        }
    }

    #[test]
    fn no_csv_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
        let head = b"name,size,generation\n";
        let (first, second) = bytes.split_at(cut.min(bytes.len()));
        let _ = parse(&[&head[..], first, second]);
        let _ = parse(&[first, second]);
    }
}
