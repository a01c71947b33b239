#!/usr/bin/env python3
"""Google's own Python client against a server that plays Google Cloud Storage: it must work unchanged.

    python official_client.py http://127.0.0.1:9000 [unittest's arguments, like -v or -k compose]

The endpoint may come from STORAGE_EMULATOR_HOST instead. Wants the packages of requirements.txt (scripts/foreign). The
last lines on stdout are unittest's `Ran N tests` and `OK`; the exit status is 0 only if every test passed. Expected
answers are the service's, so a server that is laxer fails.
"""

import base64
import datetime
import faulthandler
import gzip
import hashlib
import io
import os
import random
import sys
import tempfile
import unittest
import uuid

if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
    os.environ["STORAGE_EMULATOR_HOST"] = sys.argv.pop(1)
if not os.environ.get("STORAGE_EMULATOR_HOST"):
    sys.exit("official_client.py: name the server: official_client.py http://127.0.0.1:PORT")

import google_crc32c
import requests
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.storage import transfer_manager

# The whole run takes seconds; a server that never answers must not hold up the caller.
DEADLINE_SECONDS = 240
# What a chunk of a resumable upload must be a multiple of.
QUARTER_MIB = 256 * 1024

# Legal names that break servers and clients that take an object's name for a path or a URL.
ODD_NAMES = [
    "a//b",
    "/lead",
    "//",
    "trail/",
    "a/../b",
    "../up",
    "./here",
    "...",
    "100%25?#&+ ",
    "%2F",
    "a b\tc",
    " ",
    'quote"\'<>\\`',
    "semi;colon:at@equals=comma,",
    "grün/straße.png",
    "e\u0301 is not \u00e9",
    "\u00e9",
    "日本語/データ",
    "🦀/🐍.bin",
    "\U0010ffff",
    "\uffee before any emoji in bytes, after it in UTF-16",
    "[glob]*?{a,b}",
    "x" * 1024,
]


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that show when one is missing, doubled or misplaced."""
    return random.Random(seed).randbytes(size)


def crc32c(data: bytes) -> str:
    """The checksum as the service writes it: base64 of four big-endian bytes."""
    return base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()


def md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


def by_bytes(names) -> list[str]:
    return sorted(names, key=lambda name: name.encode())


class ServerTest(unittest.TestCase):
    """Gives each test a client and an empty bucket of its own."""

    def setUp(self):
        self.client = storage.Client(project="test", credentials=AnonymousCredentials())
        self.addCleanup(self.client.close)
        self.bucket = self.client.create_bucket(f"official-{uuid.uuid4().hex}")

    def put(self, name: str, data: bytes = b"x", **more) -> storage.Blob:
        blob = self.bucket.blob(name)
        blob.upload_from_string(data, content_type="application/octet-stream", **more)
        return blob

    def fill(self, names) -> list[str]:
        names = list(names)
        for name in names:
            self.put(name, name.encode())
        return by_bytes(names)

    def names(self, **query) -> list[str]:
        return [blob.name for blob in self.client.list_blobs(self.bucket, **query)]

    def media(self, name: str, **headers) -> requests.Response:
        """Downloads without the client, to see what really goes over the wire."""
        blob = self.bucket.blob(name)
        url = f"{os.environ['STORAGE_EMULATOR_HOST'].rstrip('/')}/storage/v1{blob.path}?alt=media"
        wire = {"Accept-Encoding": "gzip", **{key.replace("_", "-"): value for key, value in headers.items()}}
        response = requests.get(url, headers=wire, stream=True, timeout=30)
        self.addCleanup(response.close)
        return response


class Buckets(ServerTest):
    def test_a_bucket_that_was_made_can_be_read(self):
        bucket = self.client.get_bucket(self.bucket.name)
        self.assertEqual(bucket.name, self.bucket.name)
        self.assertEqual(bucket.storage_class, "STANDARD")
        self.assertTrue(bucket.location)
        self.assertTrue(bucket.exists())

    def test_a_missing_bucket_is_not_found(self):
        missing = f"missing-{uuid.uuid4().hex}"
        with self.assertRaises(exceptions.NotFound):
            self.client.get_bucket(missing)
        self.assertIsNone(self.client.lookup_bucket(missing))
        self.assertFalse(self.client.bucket(missing).exists())
        with self.assertRaises(exceptions.NotFound):
            list(self.client.list_blobs(missing))
        with self.assertRaises(exceptions.NotFound):
            self.client.bucket(missing).blob("x").upload_from_string(b"x")

    def test_a_bucket_cannot_be_made_twice(self):
        with self.assertRaises(exceptions.Conflict):
            self.client.create_bucket(self.bucket.name)

    def test_permissions_are_told(self):
        asked = ["storage.objects.get", "storage.objects.list", "storage.objects.create", "storage.objects.delete"]
        self.assertEqual(sorted(self.bucket.test_iam_permissions(asked)), sorted(asked))


class Uploads(ServerTest):
    def test_multipart(self):
        data = noise(1000)
        blob = self.put("small", data)
        self.assertEqual(blob.size, 1000)
        self.assertEqual(blob.crc32c, crc32c(data))
        self.assertEqual(blob.md5_hash, md5(data))
        self.assertEqual(blob.content_type, "application/octet-stream")
        self.assertEqual(blob.storage_class, "STANDARD")
        self.assertEqual(blob.metageneration, 1)
        self.assertGreater(blob.generation, 0)
        self.assertTrue(blob.etag)
        self.assertLess(abs(blob.updated - datetime.datetime.now(datetime.timezone.utc)), datetime.timedelta(hours=1))
        self.assertEqual(blob.download_as_bytes(), data)

    def test_multipart_with_metadata(self):
        blob = self.bucket.blob("with")
        blob.metadata = {"label": "7", "schrift": "grün"}
        blob.cache_control = "no-store"
        blob.upload_from_string(b"seven", content_type="text/plain", checksum="md5")
        found = self.bucket.get_blob("with")
        self.assertEqual(found.metadata, {"label": "7", "schrift": "grün"})
        self.assertEqual(found.cache_control, "no-store")
        self.assertEqual(found.content_type, "text/plain")

    def test_multipart_of_bytes_that_look_like_its_own_borders(self):
        data = b"--\r\n--===\r\n\r\n--==0==\r\n--==0==--\r\n" * 3
        self.assertEqual(self.put("borders", data).download_as_bytes(), data)

    def test_an_empty_object(self):
        blob = self.put("empty", b"")
        self.assertEqual(blob.size, 0)
        self.assertEqual(blob.crc32c, "AAAAAA==")
        self.assertEqual(self.bucket.get_blob("empty").size, 0)
        self.assertEqual(blob.download_as_bytes(), b"")

    def test_a_wrong_checksum_is_refused(self):
        for field, value in (("crc32c", crc32c(b"other")), ("md5_hash", md5(b"other"))):
            with self.subTest(field):
                blob = self.bucket.blob("wrong")
                setattr(blob, field, value)
                with self.assertRaises(exceptions.BadRequest):
                    blob.upload_from_string(b"data", checksum=None)
                self.assertFalse(self.bucket.blob("wrong").exists())

    def resumable(self, name: str, data: bytes, chunk_size: int = QUARTER_MIB, **more) -> storage.Blob:
        """Uploads in chunks; the client does not know the size before the last one."""
        blob = self.bucket.blob(name, chunk_size=chunk_size)
        blob.upload_from_file(io.BytesIO(data), content_type="application/octet-stream", **more)
        return blob

    def test_resumable_in_chunks(self):
        for size in (1, QUARTER_MIB - 1, QUARTER_MIB, QUARTER_MIB + 1, 4 * QUARTER_MIB, 4 * QUARTER_MIB + 12345):
            with self.subTest(size=size):
                data = noise(size, seed=size)
                blob = self.resumable("chunks", data, checksum="crc32c")
                self.assertEqual(blob.size, size)
                self.assertEqual(blob.crc32c, crc32c(data))
                self.assertEqual(blob.md5_hash, md5(data))
                self.assertEqual(self.bucket.blob("chunks").download_as_bytes(checksum="md5"), data)

    def test_resumable_of_nothing(self):
        self.assertEqual(self.resumable("nothing", b"").size, 0)
        self.assertEqual(self.bucket.blob("nothing").download_as_bytes(), b"")

    def test_resumable_of_a_known_size(self):
        # Above 8 MiB the client takes the resumable way by itself, and says the size from the start.
        data = noise(9 * 1024 * 1024 + 1)
        blob = self.bucket.blob("big", chunk_size=16 * QUARTER_MIB)
        blob.upload_from_string(data, checksum="md5")
        self.assertEqual(blob.md5_hash, md5(data))
        self.assertEqual(self.bucket.blob("big").download_as_bytes(checksum="crc32c"), data)

    def test_resumable_through_a_writer(self):
        data = noise(3 * QUARTER_MIB + 77)
        with self.bucket.blob("writer").open("wb", chunk_size=QUARTER_MIB) as writer:
            for start in range(0, len(data), 100_000):
                writer.write(data[start : start + 100_000])
        with self.bucket.blob("writer").open("rb", chunk_size=100_000) as reader:
            self.assertEqual(reader.read(), data)

    def test_a_resumable_upload_can_be_taken_up_again(self):
        data = noise(2 * QUARTER_MIB + 5)
        session = self.bucket.blob("resumed").create_resumable_upload_session(content_type="text/plain")
        status = {"Content-Range": "bytes */*", "Content-Length": "0"}
        empty = requests.put(session, headers=status, timeout=30)
        self.assertEqual((empty.status_code, empty.headers.get("Range")), (308, None))
        first = requests.put(
            session,
            data=data[:QUARTER_MIB],
            headers={"Content-Range": f"bytes 0-{QUARTER_MIB - 1}/*"},
            timeout=30,
        )
        self.assertEqual((first.status_code, first.headers.get("Range")), (308, f"bytes=0-{QUARTER_MIB - 1}"))
        asked = requests.put(session, headers=status, timeout=30)
        self.assertEqual((asked.status_code, asked.headers.get("Range")), (308, f"bytes=0-{QUARTER_MIB - 1}"))
        self.assertFalse(self.bucket.blob("resumed").exists())
        last = requests.put(
            session,
            data=data[QUARTER_MIB:],
            headers={"Content-Range": f"bytes {QUARTER_MIB}-{len(data) - 1}/{len(data)}"},
            timeout=30,
        )
        self.assertEqual(last.status_code, 200)
        self.assertEqual(last.json()["crc32c"], crc32c(data))
        blob = self.bucket.get_blob("resumed")
        self.assertEqual((blob.download_as_bytes(), blob.content_type), (data, "text/plain"))

    def test_many_at_once(self):
        blobs = [(io.BytesIO(noise(5000, seed)), self.bucket.blob(f"many/{seed:02}")) for seed in range(40)]
        results = transfer_manager.upload_many(blobs, worker_type=transfer_manager.THREAD, raise_exception=True)
        self.assertEqual(len(results), 40)
        self.assertEqual(len(self.names(prefix="many/")), 40)
        big = noise(1_000_001)
        self.put("parts", big)
        path = os.path.join(self.enterContext(tempfile.TemporaryDirectory(prefix="official-client-")), "parts")
        transfer_manager.download_chunks_concurrently(
            self.bucket.blob("parts"), path, chunk_size=100_000, worker_type=transfer_manager.THREAD
        )
        with open(path, "rb") as file:
            self.assertEqual(file.read(), big)


class Preconditions(ServerTest):
    def test_create_only(self):
        first = self.put("once", b"first", if_generation_match=0)
        with self.assertRaises(exceptions.PreconditionFailed):
            self.put("once", b"second", if_generation_match=0)
        self.assertEqual(self.bucket.blob("once").download_as_bytes(), b"first")
        first.delete()
        again = self.put("once", b"third", if_generation_match=0)
        self.assertGreater(again.generation, first.generation)

    def test_create_only_in_chunks(self):
        data = noise(QUARTER_MIB + 1)
        for attempt in ("creates", "fails"):
            blob = self.bucket.blob("once", chunk_size=QUARTER_MIB)
            if attempt == "creates":
                blob.upload_from_file(io.BytesIO(data), if_generation_match=0)
            else:
                with self.assertRaises(exceptions.PreconditionFailed):
                    blob.upload_from_file(io.BytesIO(data), if_generation_match=0)

    def test_replace_only_what_was_seen(self):
        old = self.put("x", b"old")
        new = self.put("x", b"new", if_generation_match=old.generation)
        self.assertGreater(new.generation, old.generation)
        with self.assertRaises(exceptions.PreconditionFailed):
            self.put("x", b"newer", if_generation_match=old.generation)
        self.assertEqual(self.bucket.blob("x").download_as_bytes(), b"new")

    def test_read_only_what_was_seen(self):
        old = self.put("x", b"old")
        new = self.put("x", b"new")
        blob = self.bucket.blob("x")
        self.assertEqual(blob.download_as_bytes(if_generation_match=new.generation), b"new")
        with self.assertRaises(exceptions.PreconditionFailed):
            blob.download_as_bytes(if_generation_match=old.generation)
        with self.assertRaises(exceptions.PreconditionFailed):
            blob.reload(if_generation_match=old.generation)
        with self.assertRaises(exceptions.PreconditionFailed):
            blob.reload(if_metageneration_match=99)

    def test_an_old_generation_is_gone(self):
        old = self.put("x", b"old")
        new = self.put("x", b"new")
        self.assertIsNone(self.bucket.get_blob("x", generation=old.generation))
        self.assertEqual(self.bucket.get_blob("x", generation=new.generation).size, 3)
        self.assertEqual(self.bucket.blob("x", generation=new.generation).download_as_bytes(), b"new")
        with self.assertRaises(exceptions.NotFound):
            self.bucket.blob("x", generation=old.generation).download_as_bytes()

    def test_delete_only_what_was_seen(self):
        old = self.put("x", b"old")
        new = self.put("x", b"new")
        with self.assertRaises(exceptions.PreconditionFailed):
            self.bucket.blob("x").delete(if_generation_match=old.generation)
        with self.assertRaises(exceptions.NotFound):
            self.bucket.blob("x", generation=old.generation).delete()
        self.bucket.blob("x").delete(if_generation_match=new.generation)
        self.assertFalse(self.bucket.blob("x").exists())


class Listing(ServerTest):
    def test_all_in_the_order_of_bytes(self):
        wanted = self.fill(["b", "a", "B", "a/b", "a-b", "a0", "ab", "é", "z", "\uffee", "🦀"])
        self.assertEqual(self.names(), wanted)

    def test_nothing(self):
        self.assertEqual(self.names(), [])
        self.put("a")
        self.assertEqual(self.names(prefix="b"), [])

    def test_pages(self):
        wanted = self.fill(f"{i:03}" for i in range(25))
        for page_size in (1, 7, 24, 25, 26, 5000):
            with self.subTest(page_size=page_size):
                pages = [
                    [blob.name for blob in page]
                    for page in self.client.list_blobs(self.bucket, page_size=page_size).pages
                ]
                self.assertLessEqual(max(map(len, pages)), page_size)
                self.assertEqual(sum(pages, []), wanted)
        self.assertEqual(self.names(max_results=10), wanted[:10])

    def test_prefix_and_offsets(self):
        self.fill(f"{folder}/{i:02}" for folder in "abc" for i in range(10))
        self.assertEqual(self.names(prefix="b/"), [f"b/{i:02}" for i in range(10)])
        self.assertEqual(self.names(start_offset="c/05"), [f"c/{i:02}" for i in range(5, 10)])
        self.assertEqual(self.names(end_offset="a/03"), ["a/00", "a/01", "a/02"])
        self.assertEqual(
            self.names(start_offset="a/08", end_offset="b/02", page_size=3), ["a/08", "a/09", "b/00", "b/01"]
        )
        self.assertEqual(self.names(prefix="b/", start_offset="b/08"), ["b/08", "b/09"])
        self.assertEqual(self.names(start_offset="b", end_offset="b"), [])
        self.assertEqual(self.names(start_offset="b/05\0", end_offset="b/07"), ["b/06"])

    def test_delimiter(self):
        self.fill(["a", "b/1", "b/2", "b/c/3", "c/", "d", "e/x"])
        for page_size in (1, 2, 3, 100):
            with self.subTest(page_size=page_size):
                listing = self.client.list_blobs(self.bucket, delimiter="/", page_size=page_size)
                self.assertEqual([blob.name for blob in listing], ["a", "d"])
                self.assertEqual(sorted(listing.prefixes), ["b/", "c/", "e/"])
        inner = self.client.list_blobs(self.bucket, prefix="b/", delimiter="/")
        self.assertEqual([blob.name for blob in inner], ["b/1", "b/2"])
        self.assertEqual(sorted(inner.prefixes), ["b/c/"])
        trailing = self.client.list_blobs(self.bucket, delimiter="/", include_trailing_delimiter=True)
        self.assertEqual([blob.name for blob in trailing], ["a", "c/", "d"])
        self.assertEqual(sorted(trailing.prefixes), ["b/", "c/", "e/"])

    def test_a_prefix_is_told_once(self):
        self.fill(f"{folder}/{i}" for folder in "ab" for i in range(9))
        listing = self.client.list_blobs(self.bucket, delimiter="/", page_size=1)
        told = [prefix for page in listing.pages for prefix in page.prefixes]
        self.assertEqual(told, ["a/", "b/"])

    def test_glob(self):
        self.fill(["a/1.png", "a/2.jpg", "a/b/3.png", "4.png"])
        self.assertEqual(self.names(match_glob="*.png"), ["4.png"])
        self.assertEqual(self.names(match_glob="a/*.png"), ["a/1.png"])
        self.assertEqual(self.names(match_glob="**.png"), ["4.png", "a/1.png", "a/b/3.png"])
        self.assertEqual(self.names(match_glob="a/[12].{png,jpg}"), ["a/1.png", "a/2.jpg"])

    def test_fields(self):
        self.put("x", b"data")
        (blob,) = self.client.list_blobs(self.bucket, fields="items(name,size,crc32c),nextPageToken")
        self.assertEqual(blob._properties, {"name": "x", "size": "4", "crc32c": crc32c(b"data")})

    def test_a_listed_object_tells_all(self):
        made = self.put("x", b"data")
        (blob,) = self.client.list_blobs(self.bucket)
        for field in ("name", "size", "generation", "metageneration", "crc32c", "md5_hash", "storage_class", "updated"):
            self.assertEqual(getattr(blob, field), getattr(made, field), field)


class Downloads(ServerTest):
    def test_whole_with_checksums(self):
        data = noise(300_000)
        blob = self.put("x", data)
        for checksum in ("crc32c", "md5", "auto", None):
            for raw in (False, True):
                with self.subTest(checksum=checksum, raw=raw):
                    self.assertEqual(blob.download_as_bytes(checksum=checksum, raw_download=raw), data)
        response = self.media("x")
        self.assertEqual(response.status_code, 200)
        hashes = {part.strip() for part in response.headers["x-goog-hash"].split(",")}
        self.assertEqual(hashes, {f"crc32c={crc32c(data)}", f"md5={md5(data)}"})
        self.assertEqual(response.headers["x-goog-generation"], str(blob.generation))
        self.assertEqual(response.headers["x-goog-metageneration"], "1")
        self.assertEqual(response.headers["x-goog-stored-content-length"], "300000")
        self.assertEqual(response.headers["x-goog-stored-content-encoding"], "identity")
        self.assertEqual(response.headers["Content-Length"], "300000")

    def test_ranges(self):
        data = noise(100_000)
        blob = self.put("x", data)
        for start, end in ((0, 0), (0, 99_999), (99_999, 99_999), (50_000, 60_000), (90_000, 200_000), (1, None)):
            with self.subTest(start=start, end=end):
                stop = len(data) if end is None else end + 1
                self.assertEqual(blob.download_as_bytes(start=start, end=end, checksum="crc32c"), data[start:stop])
        response = self.media("x", Range="bytes=10-19")
        self.assertEqual((response.status_code, response.content), (206, data[10:20]))
        self.assertEqual(response.headers["Content-Range"], "bytes 10-19/100000")
        # The hash is of the whole object, never of the range.
        self.assertIn(f"crc32c={crc32c(data)}", response.headers["x-goog-hash"])
        last = self.media("x", Range="bytes=-7")
        self.assertEqual((last.status_code, last.content), (206, data[-7:]))

    def test_a_range_past_the_end_cannot_be_satisfied(self):
        blob = self.put("x", b"12345")
        with self.assertRaises(exceptions.RequestRangeNotSatisfiable):
            blob.download_as_bytes(start=5)
        self.assertEqual(self.media("x", Range="bytes=5-9").status_code, 416)

    def test_in_chunks(self):
        data = noise(5 * QUARTER_MIB + 3)
        self.put("x", data)
        blob = self.bucket.blob("x", chunk_size=QUARTER_MIB)
        self.assertEqual(blob.download_as_bytes(), data)

    def test_gzip_is_unpacked_only_for_who_does_not_take_it(self):
        plain = b"the same line again\n" * 1000
        packed = gzip.compress(plain, mtime=0)
        blob = self.bucket.blob("x.gz")
        blob.content_encoding = "gzip"
        blob.upload_from_string(packed, content_type="text/plain")
        self.assertEqual((blob.size, blob.crc32c), (len(packed), crc32c(packed)))
        # The client asks for gzip and unpacks it itself, or not.
        self.assertEqual(blob.download_as_bytes(checksum="crc32c"), plain)
        self.assertEqual(blob.download_as_bytes(checksum="crc32c", raw_download=True), packed)
        stored = self.media("x.gz")
        self.assertEqual(stored.raw.read(decode_content=False), packed)
        self.assertEqual(stored.headers["Content-Encoding"], "gzip")
        unpacked = self.media("x.gz", Accept_Encoding="identity")
        self.assertEqual(unpacked.raw.read(decode_content=False), plain)
        self.assertNotIn("Content-Encoding", unpacked.headers)
        self.assertEqual(unpacked.headers["x-goog-stored-content-encoding"], "gzip")
        self.assertEqual(unpacked.headers["x-goog-stored-content-length"], str(len(packed)))

    def test_a_missing_object_is_not_found(self):
        blob = self.bucket.blob("missing")
        self.assertFalse(blob.exists())
        self.assertIsNone(self.bucket.get_blob("missing"))
        for call in (blob.reload, blob.download_as_bytes, blob.delete):
            with self.assertRaises(exceptions.NotFound):
                call()


class Names(ServerTest):
    def test_odd_names_go_through_everything(self):
        for name in ODD_NAMES:
            with self.subTest(name[:40]):
                data = name.encode()
                made = self.put(name, data, if_generation_match=0)
                self.assertEqual(made.name, name)
                found = self.bucket.get_blob(name)
                self.assertEqual((found.name, found.generation), (name, made.generation))
                self.assertEqual(found.download_as_bytes(checksum="crc32c"), data)
                self.assertEqual(self.bucket.blob(name).download_as_bytes(start=0, end=0), data[:1])
                self.assertIn(name, self.names(prefix=name))
                self.assertEqual(self.names(start_offset=name, max_results=1), [name])
                found.metadata = {"name": "odd"}
                found.patch()
        self.assertEqual(self.names(page_size=5), by_bytes(ODD_NAMES))

        sources = [self.bucket.blob(name) for name in ODD_NAMES]
        target = self.bucket.blob("all/🦀 + all")
        target.compose(sources)
        self.assertEqual(target.download_as_bytes(), "".join(ODD_NAMES).encode())
        for name in ODD_NAMES:
            with self.subTest(name[:40]):
                self.bucket.blob(name).delete()
                self.assertFalse(self.bucket.blob(name).exists())
        self.assertEqual(self.names(), ["all/🦀 + all"])

    def test_odd_names_in_chunks_and_in_batches(self):
        data = noise(QUARTER_MIB + 1)
        for name in ODD_NAMES:
            self.bucket.blob(name, chunk_size=QUARTER_MIB).upload_from_file(io.BytesIO(data))
        self.assertEqual(self.names(), by_bytes(ODD_NAMES))
        with self.client.batch():
            for name in ODD_NAMES:
                self.bucket.blob(name).delete()
        self.assertEqual(self.names(), [])

    def test_names_that_are_none(self):
        for name in ("x" * 1025, "a\nb", "a\rb", "🦀" * 257):
            with self.subTest(name[:10]):
                with self.assertRaises(exceptions.BadRequest):
                    self.put(name)


class Compose(ServerTest):
    def parts(self, count: int) -> tuple[list[storage.Blob], bytes]:
        datas = [noise(100 + index, seed=index) for index in range(count)]
        return [self.put(f"part/{index:02}", data) for index, data in enumerate(datas)], b"".join(datas)

    def test_32_and_no_more(self):
        parts, data = self.parts(33)
        whole = self.bucket.blob("whole")
        whole.content_type = "application/octet-stream"
        with self.assertRaises(exceptions.BadRequest):
            whole.compose(parts)
        self.assertFalse(whole.exists())
        whole.compose(parts[:32], if_generation_match=0)
        data = data[: -len(noise(132, seed=32))]
        self.assertEqual(whole.size, len(data))
        self.assertEqual(whole.crc32c, crc32c(data))
        self.assertEqual(whole.component_count, 32)
        self.assertIsNone(whole.md5_hash)
        self.assertEqual(whole.download_as_bytes(checksum="crc32c"), data)
        self.assertNotIn("md5", self.media("whole").headers["x-goog-hash"])

    def test_a_source_may_come_twice_or_be_the_target(self):
        first, second = self.put("a", b"1"), self.put("b", b"2")
        # Not `first.compose`: that sends along the checksum that it knows of itself, which the service then insists on.
        self.bucket.blob("a").compose([first, second, first])
        self.assertEqual(self.bucket.blob("a").download_as_bytes(), b"121")

    def test_of_composites_and_empties(self):
        for name, data in (("a", b"1"), ("b", b""), ("c", b"3")):
            self.put(name, data)
        for _ in range(2):
            self.bucket.blob("a").compose([self.bucket.blob(name) for name in "abc"])
        whole = self.bucket.get_blob("a")
        self.assertEqual(whole.download_as_bytes(), b"133")
        self.assertEqual(whole.component_count, 5)

    def test_a_changed_source_is_refused(self):
        parts, _ = self.parts(2)
        seen = [part.generation for part in parts]
        self.put("part/01", b"changed")
        with self.assertRaises(exceptions.PreconditionFailed):
            self.bucket.blob("whole").compose(
                [self.bucket.blob(part.name) for part in parts], if_source_generation_match=seen
            )
        self.assertFalse(self.bucket.blob("whole").exists())
        now = [seen[0], self.bucket.get_blob("part/01").generation]
        self.bucket.blob("whole").compose(
            [self.bucket.blob(part.name) for part in parts], if_source_generation_match=now
        )
        self.assertTrue(self.bucket.blob("whole").exists())

    def test_a_missing_generation_is_not_found(self):
        parts, _ = self.parts(2)
        self.put("part/01", b"changed")
        with self.assertRaises(exceptions.NotFound):
            self.bucket.blob("whole").compose(
                [self.bucket.blob(part.name, generation=part.generation) for part in parts]
            )
        self.assertFalse(self.bucket.blob("whole").exists())

    def test_a_missing_source_is_not_found(self):
        parts, _ = self.parts(1)
        with self.assertRaises(exceptions.NotFound):
            self.bucket.blob("whole").compose([*parts, self.bucket.blob("missing")])

    def test_create_only(self):
        parts, _ = self.parts(2)
        self.bucket.blob("whole").compose(parts, if_generation_match=0)
        with self.assertRaises(exceptions.PreconditionFailed):
            self.bucket.blob("whole").compose(parts, if_generation_match=0)

    def test_the_target_keeps_its_storage_class(self):
        for name in "ab":
            blob = self.bucket.blob(name)
            blob.storage_class = "NEARLINE"
            blob.upload_from_string(name)
        self.assertEqual(self.bucket.get_blob("a").storage_class, "NEARLINE")
        whole = self.bucket.blob("whole")
        whole.compose([self.bucket.blob(name) for name in "ab"])
        self.assertEqual(whole.storage_class, "NEARLINE")
        with self.assertRaises(exceptions.BadRequest):
            self.bucket.blob("mixed").compose([self.bucket.blob("a"), self.put("standard")])


class Metadata(ServerTest):
    def test_patch_and_reload(self):
        made = self.put("x", b"data")
        blob = self.bucket.get_blob("x")
        blob.metadata = {"a": "1", "b": "2"}
        blob.content_type = "image/png"
        blob.custom_time = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
        blob.patch(if_metageneration_match=1)
        found = self.bucket.get_blob("x")
        self.assertEqual(found.metadata, {"a": "1", "b": "2"})
        self.assertEqual(found.content_type, "image/png")
        self.assertEqual(found.custom_time, blob.custom_time)
        self.assertEqual((found.generation, found.metageneration), (made.generation, 2))
        self.assertEqual(found.crc32c, made.crc32c)
        found.metadata = {"a": None, "c": "3"}
        found.patch()
        blob.reload()
        self.assertEqual(blob.metadata, {"b": "2", "c": "3"})
        self.assertEqual(blob.metageneration, 3)
        with self.assertRaises(exceptions.PreconditionFailed):
            blob.patch(if_metageneration_match=1)
        self.assertEqual(blob.download_as_bytes(), b"data")

    def test_a_missing_object_cannot_be_patched(self):
        blob = self.bucket.blob("missing")
        blob.metadata = {"a": "1"}
        with self.assertRaises(exceptions.NotFound):
            blob.patch()


class Deletes(ServerTest):
    def test_deleted_is_gone(self):
        blob = self.put("x")
        blob.delete()
        self.assertEqual(self.names(), [])
        for call in (blob.reload, blob.download_as_bytes, blob.delete):
            with self.assertRaises(exceptions.NotFound):
                call()

    def test_a_hundred_in_one_batch(self):
        self.fill(f"{i:03}" for i in range(101))
        with self.client.batch():
            for i in range(100):
                self.bucket.blob(f"{i:03}").delete()
        self.assertEqual(self.names(), ["100"])

    def test_each_call_of_a_batch_has_its_own_answer(self):
        self.fill(["a", "b", "c"])
        with self.client.batch(raise_exception=False) as batch:
            self.bucket.blob("a").delete()
            self.bucket.blob("missing").delete()
            self.bucket.blob("b").delete(if_generation_match=1)
            self.bucket.blob("c").delete()
        self.assertEqual([response.status_code for response in batch._responses], [204, 404, 412, 204])
        self.assertEqual(self.names(), ["b"])
        with self.assertRaises(exceptions.NotFound):
            with self.client.batch():
                self.bucket.blob("missing").delete()

    def test_a_batch_of_patches(self):
        self.fill(["a", "b"])
        blobs = [self.bucket.get_blob(name) for name in "ab"]
        with self.client.batch():
            for blob in blobs:
                blob.metadata = {"name": blob.name}
                blob.patch()
        self.assertEqual([self.bucket.get_blob(name).metadata for name in "ab"], [{"name": "a"}, {"name": "b"}])

    def test_many_by_one_call(self):
        self.fill(["a", "b", "c"])
        missing = []
        self.bucket.delete_blobs(["a", "missing", "b"], on_error=missing.append)
        self.assertEqual((missing, self.names()), (["missing"], ["c"]))


class Copies(ServerTest):
    def test_rewrite(self):
        data = noise(1000)
        source = self.put("from", data)
        source.metadata = {"a": "1"}
        source.patch()
        target = self.client.create_bucket(f"official-{uuid.uuid4().hex}").blob("to/🦀")
        token, written, total = target.rewrite(source)
        self.assertEqual((token, written, total), (None, 1000, 1000))
        self.assertEqual((target.crc32c, target.md5_hash, target.metadata), (source.crc32c, md5(data), {"a": "1"}))
        self.assertEqual(target.download_as_bytes(), data)

    def test_rewrite_changes_the_storage_class(self):
        blob = self.put("x", b"data")
        blob.update_storage_class("COLDLINE")
        self.assertEqual(self.bucket.get_blob("x").storage_class, "COLDLINE")
        self.assertEqual(self.bucket.blob("x").download_as_bytes(), b"data")

    def test_copy_and_rename(self):
        source = self.put("a", b"data")
        self.assertEqual(self.bucket.copy_blob(source, self.bucket, "b").download_as_bytes(), b"data")
        with self.assertRaises(exceptions.PreconditionFailed):
            self.bucket.copy_blob(source, self.bucket, "b", if_generation_match=0)
        self.bucket.rename_blob(source, "c")
        self.assertEqual(self.names(), ["b", "c"])

    def test_a_missing_source_is_not_found(self):
        with self.assertRaises(exceptions.NotFound):
            self.bucket.blob("to").rewrite(self.bucket.blob("missing"))


if __name__ == "__main__":
    faulthandler.dump_traceback_later(DEADLINE_SECONDS, exit=True)
    unittest.main(testRunner=unittest.TextTestRunner(stream=sys.stdout, verbosity=2))
