"""The links of the guide as a book. scripts/book calls this.

mdBook runs it as a preprocessor: chapters link to the library as rustdoc does, such as (crate::DataLoader::epoch), and
it makes that the page which rustdoc made of the item. The environment variable BOOK_API names the folder of these
pages. They become the folder `api` of the book.

    python3 docs/book.py check FOLDER     # fails if a link between pages of the book in FOLDER is dead
"""

import functools
import html.parser
import json
import os
import pathlib
import re
import sys
import urllib.parse

LINK = re.compile(r"\]\(crate::([\w:]+)(#[\w-]+)?\)")
ITEMS = ("struct", "enum", "trait", "fn", "type", "constant")
MEMBERS = ("method", "tymethod", "variant", "structfield", "associatedtype", "associatedconstant")


def address(api, path):
    """Where rustdoc has the item of a path such as `DataLoader::epoch`, relative to `api`."""
    *outer, name = path.split("::")
    module = pathlib.Path("dataflux", *outer)
    for page in (module / name / "index.html", *(module / f"{kind}.{name}.html" for kind in ITEMS)):
        if (api / page).is_file():
            return page.as_posix()
    if outer:
        owner = address(api, "::".join(outer))
        ids = read_page(api / owner).ids
        for kind in MEMBERS:
            if f"{kind}.{name}" in ids:
                return f"{owner}#{kind}.{name}"
    sys.exit(f"error: rustdoc has no page for crate::{path} in {api}; correct the link, or make the pages anew")


def preprocess(book):
    if "BOOK_API" not in os.environ:
        sys.exit("error: BOOK_API names no folder of rustdoc's pages; scripts/book makes them and sets it")
    api = pathlib.Path(os.environ["BOOK_API"])

    def rewrite(items):
        for item in items:
            if chapter := item.get("Chapter") if isinstance(item, dict) else None:
                chapter["content"] = LINK.sub(
                    lambda link: f"](api/{address(api, link[1])}{link[2] or ''})", chapter["content"]
                )
                rewrite(chapter["sub_items"])

    rewrite(book["items"])
    return book


class Page(html.parser.HTMLParser):
    """The links of a page, and what in it can be linked to."""

    def __init__(self, text):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.add(attributes.get("id"))
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])


@functools.cache
def read_page(path):
    return Page(path.read_text(encoding="utf-8"))


def check(book):
    """Looks at the links of the guide's pages; those of rustdoc's pages are rustdoc's."""
    dead, count = [], 0
    for path in sorted(book.glob("*.html")):
        for link in read_page(path).links:
            url = urllib.parse.urlsplit(link)
            if url.scheme or url.netloc:
                continue
            count += 1
            target = path.parent / urllib.parse.unquote(url.path) if url.path else path
            if not target.is_file():
                dead.append(f"{path.name}: {link}: there is no such page")
            elif url.fragment and urllib.parse.unquote(url.fragment) not in read_page(target).ids:
                dead.append(f"{path.name}: {link}: the page has no such place")
    print(f"{count} links between pages, {len(dead)} of them dead")
    for line in dead:
        print(f"error: {line}")
    if dead or not count:
        sys.exit(1)


match sys.argv[1:]:
    case ["check", folder]:
        check(pathlib.Path(folder))
    case ["supports", _]:
        pass
    case []:
        context, book = json.load(sys.stdin)
        json.dump(preprocess(book), sys.stdout)
    case _:
        sys.exit(__doc__)
