//! Pages of names.

use anyhow::{Result, ensure};
use dataflux::ErrorKind;
use dataflux::store::{Fields, ListRequest};

use super::{MISSING_BUCKET, Target, refused};

pub(super) async fn an_empty_listing_is_no_error(t: Target) -> Result<()> {
    let page = t.client.list(&t.list_request("nothing/")).await?;
    ensure!(page.objects.is_empty() && page.prefixes.is_empty() && page.next_page_token.is_none(), "{page:?}");
    Ok(())
}

pub(super) async fn a_missing_bucket_is_not_found(t: Target) -> Result<()> {
    let answer = t.client.list(&ListRequest::new(MISSING_BUCKET, "")).await;
    refused(answer, &[ErrorKind::NotFound], &t.missing_bucket())?;
    Ok(())
}

pub(super) async fn names_come_in_byte_order(t: Target) -> Result<()> {
    // The last two change places in an order by UTF-16 units.
    let sorted =
        ["!", "-", "/x", "0", "10", "9", "A", "Z", "_", "a", "a b", "a-b", "a/b", "aa", "~", "ü", "\u{ff5e}", "😀"];
    let mut shuffled = sorted;
    shuffled.reverse();
    t.put_all(&shuffled).await?;
    let names = t.names(t.list_request("")).await?;
    ensure!(names == sorted, "{names:?}");
    Ok(())
}

pub(super) async fn a_prefix_selects(t: Target) -> Result<()> {
    t.put_all(&["a", "ab", "ab/c", "abc", "b", "ä", "äb"]).await?;
    for (prefix, wanted) in
        [("ab", &["ab", "ab/c", "abc"][..]), ("ab/", &["ab/c"]), ("ä", &["ä", "äb"]), ("abcd", &[]), ("b", &["b"])]
    {
        let names = t.names(t.list_request(prefix)).await?;
        ensure!(names == wanted, "of {prefix:?}: {names:?}");
    }
    Ok(())
}

pub(super) async fn offsets_select_start_inclusive_end_exclusive(t: Target) -> Result<()> {
    t.put_all(&["a", "b", "c", "d", "e"]).await?;
    for (start, end, wanted) in [
        (Some("b"), None, "bcde"),
        (None, Some("c"), "ab"),
        (Some("b"), Some("d"), "bc"),
        (Some("bb"), Some("dd"), "cd"),
        (Some("b"), Some("b"), ""),
        (Some("d"), Some("b"), ""),
        (Some("f"), None, ""),
    ] {
        let mut request = t.list_request("");
        request.start_offset = start.map(|start| t.name(start));
        request.end_offset = end.map(|end| t.name(end));
        let names = t.names(request).await?.concat();
        ensure!(names == wanted, "from {start:?} to {end:?}: {names:?}");
    }
    // Offsets outside of the prefix narrow nothing, or leave nothing.
    let mut request = t.list_request("");
    request.start_offset = Some("!".into());
    ensure!(t.names(request).await?.concat() == "abcde", "an offset before the prefix");
    Ok(())
}

pub(super) async fn pages_join_without_gap_or_repeat(t: Target) -> Result<()> {
    let wanted: Vec<String> = (0..7).map(|n| format!("n{n}")).collect();
    t.put_all(&wanted.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    for size in [1, 2, 3, 7, 8] {
        let mut request = t.list_request("");
        request.page_size = Some(size);
        let names = t.names(request).await?;
        ensure!(names == wanted, "pages of {size}: {names:?}");
    }
    let mut request = t.list_request("");
    (request.page_size, request.start_offset, request.end_offset) = (Some(2), Some(t.name("n1")), Some(t.name("n6")));
    let names = t.names(request).await?;
    ensure!(names == wanted[1..6], "pages of a range: {names:?}");
    Ok(())
}

pub(super) async fn page_size_is_honoured(t: Target) -> Result<()> {
    t.put_all(&["a", "b", "c"]).await?;
    let mut request = t.list_request("");
    request.page_size = Some(2);
    let page = t.client.list(&request).await?;
    ensure!(page.objects.len() <= 2 && page.next_page_token.is_some(), "{} in a page of 2", page.objects.len());
    Ok(())
}

pub(super) async fn a_delimiter_rolls_up(t: Target) -> Result<()> {
    t.put_all(&["a", "d/1", "d/2", "d/e/3", "f//4", "g"]).await?;
    let rolled = async |prefix: &str, delimiter: &str| {
        let mut request = t.list_request(prefix);
        request.delimiter = Some(delimiter.into());
        t.list(request).await.map(|(names, prefixes)| (names.join(" "), prefixes.join(" ")))
    };
    for (prefix, delimiter, names, prefixes) in [
        ("", "/", "a g", "d/ f/"),
        ("d/", "/", "d/1 d/2", "d/e/"),
        ("d", "/", "", "d/"),
        ("f/", "/", "", "f//"),
        ("", "/e", "a d/1 d/2 f//4 g", "d/e"),
    ] {
        let got = rolled(prefix, delimiter).await?;
        ensure!(got == (names.into(), prefixes.into()), "of {prefix:?} by {delimiter:?}: {got:?}");
    }
    Ok(())
}

pub(super) async fn prefixes_are_not_repeated_across_pages(t: Target) -> Result<()> {
    t.put_all(&["a/1", "a/2", "b", "c/1", "c/2", "c/3", "d"]).await?;
    let mut request = t.list_request("");
    (request.delimiter, request.page_size) = (Some("/".into()), Some(1));
    let (names, prefixes) = t.list(request).await?;
    ensure!(names == ["b", "d"] && prefixes == ["a/", "c/"], "{names:?} {prefixes:?}");
    Ok(())
}

pub(super) async fn listing_tells_what_stat_tells(t: Target) -> Result<()> {
    t.put("o", "meow").await?;
    let stat = t.client.stat(&t.live("o")).await?;
    let mut request = t.list_request("o");
    request.fields = Fields::Times;
    let page = t.client.list(&request).await?;
    let Some(listed) = page.objects.get(0) else { anyhow::bail!("nothing is listed") };
    ensure!(listed.name == t.name("o") && listed.size == 4 && listed.version == stat.version.as_deref(), "{listed:?}");
    ensure!(listed.crc32c == t.crc32c(b"meow") && listed.crc32c == stat.crc32c, "{listed:?}");
    ensure!(listed.storage_class == stat.storage_class && listed.encoding.is_identity(), "{listed:?}");
    ensure!(listed.updated.is_some(), "{listed:?}");
    Ok(())
}

pub(super) async fn details_come_when_asked_for(t: Target) -> Result<()> {
    let mut put = t.put_request("o", "meow");
    put.metadata.insert("says".into(), "ü \"x\"".into());
    t.client.put(&put).await?;
    let mut request = t.list_request("");
    request.fields = Fields::All;
    let page = t.client.list(&request).await?;
    let details = page.objects.get(0).and_then(|object| object.details);
    ensure!(details.is_some_and(|details| details.metadata == put.metadata && details.created.is_some()), "{page:?}");
    Ok(())
}

pub(super) async fn listing_within_one_letter(t: Target) -> Result<()> {
    // Ranges like those of the lister: between names that differ only at their end, and with bounds that are no names.
    t.put_all(&["x/000", "x/001", "x/002", "x/01", "x/1"]).await?;
    let mut found = Vec::new();
    for (start, end) in
        [(None, Some("x/0005")), (Some("x/0005"), Some("x/002")), (Some("x/002"), Some("x0")), (Some("x0"), None)]
    {
        let mut request = t.list_request("");
        request.start_offset = start.map(|start| t.name(start));
        request.end_offset = end.map(|end| t.name(end));
        found.extend(t.names(request).await?);
    }
    ensure!(found == ["x/000", "x/001", "x/002", "x/01", "x/1"], "{found:?}");
    Ok(())
}
