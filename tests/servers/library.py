"""A lending library as an MCP server: books to search, lend and bring back, written with `MCPServer`."""

import struct
import threading
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Annotated

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.mcpserver import Context, Image, MCPServer, UserMessage
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
    ToolAnnotations,
)
from pydantic import BaseModel, Field

READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
openings = count(1)


class Book(BaseModel):
    isbn: str
    title: str
    author: str
    genre: str
    lent_to: str | None = None


@dataclass
class Library:
    opening: int
    books: dict[str, Book] = field(default_factory=dict)
    closed: bool = False


SHELF = [
    Book(isbn="9780140449136", title="The Odyssey", author="Homer", genre="epic"),
    Book(isbn="9780141439600", title="A Tale of Two Cities", author="Charles Dickens", genre="novel"),
    Book(isbn="9780261103344", title="The Hobbit", author="J. R. R. Tolkien", genre="fantasy"),
    Book(isbn="9780199535569", title="Pride and Prejudice", author="Jane Austen", genre="novel"),
]


@asynccontextmanager
async def opening_hours(server: "MCPServer[Library]") -> AsyncIterator[Library]:
    library = Library(opening=next(openings), books={book.isbn: book.model_copy() for book in SHELF})
    try:
        yield library
    finally:
        library.closed = True


mcp = MCPServer(
    "Library",
    title="Town library",
    version="3.1.0",
    instructions="Search before you lend; a book can be lent to one reader only.",
    lifespan=opening_hours,
)


def _library(ctx: Context[Library]) -> Library:
    return ctx.request_context.lifespan_context


@mcp.tool(annotations=READS)
async def search(query: str, ctx: Context[Library]) -> list[Book]:
    """Find books by a part of their title or author."""
    wanted = query.casefold()
    return [
        book
        for book in _library(ctx).books.values()
        if wanted in book.title.casefold() or wanted in book.author.casefold()
    ]


@mcp.tool()
async def lend(isbn: str, reader: Annotated[str, Field(min_length=1)], ctx: Context[Library]) -> Book:
    """Lend a book to a reader."""
    book = _library(ctx).books.get(isbn)
    if book is None:
        raise ToolError(f"There is no book {isbn}.")
    if book.lent_to:
        raise ToolError(f"{book.title} is lent to {book.lent_to}.")
    book.lent_to = reader
    return book


@mcp.tool(annotations=ToolAnnotations(idempotent_hint=True))
async def bring_back(isbn: str, ctx: Context[Library]) -> bool:
    """Take a book back; true if it was lent."""
    book = _library(ctx).books[isbn]
    was_lent, book.lent_to = book.lent_to is not None, None
    return was_lent


@mcp.tool(annotations=READS)
def cover(isbn: str) -> Image:
    """The cover of a book, a plain square in a colour of its own."""
    shade = zlib.crc32(isbn.encode())
    row = b"\x00" + bytes((shade & 255, shade >> 8 & 255, shade >> 16 & 255)) * 8

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 8)) + chunk(b"IEND", b"")
    return Image(data=png, format="png")


@mcp.tool(annotations=READS)
async def take_stock(ctx: Context[Library]) -> dict[str, int]:
    """Count the books of each genre, one book at a time."""
    books = list(_library(ctx).books.values())
    genres: dict[str, int] = {}
    for number, book in enumerate(books, start=1):
        genres[book.genre] = genres.get(book.genre, 0) + 1
        await ctx.report_progress(number, len(books), book.title)
    await ctx.info(f"counted {len(books)} books")
    return genres


class Card(BaseModel):
    reader: str | None
    scopes: list[str]
    thread: str


@mcp.tool(annotations=READS)
def reader_card() -> Card:
    """Whose card was shown, looked up in the old card index, which blocks."""
    token = get_access_token()
    return Card(
        reader=token.client_id if token else None,
        scopes=token.scopes if token else [],
        thread=threading.current_thread().name,
    )


@mcp.tool(annotations=READS)
async def opening(ctx: Context[Library]) -> int:
    """How many times the library has opened."""
    return _library(ctx).opening


@mcp.tool(annotations=READS)
async def burn(isbn: str) -> None:
    """Fails, as a tool with a mistake in it does."""
    raise RuntimeError(f"the password of the database is hunter2, and {isbn}")


@mcp.resource("library://hours", mime_type="text/plain")
def hours() -> str:
    """When the library is open."""
    return "Monday to Friday, 9 to 18"


@mcp.resource("library://logo", mime_type="image/png")
def logo() -> bytes:
    """The library's logo."""
    return b"\x89PNG\r\n\x1a\n"


@mcp.resource("library://books/{isbn}", mime_type="application/json")
async def book(isbn: str, ctx: Context[Library]) -> str:
    """One book."""
    return _library(ctx).books[isbn].model_dump_json()


@mcp.prompt(title="Recommend a book")
def recommend(reader: str, genre: str = "novel") -> list[UserMessage]:
    """Ask for a book that a reader will like."""
    return [UserMessage(f"Recommend a {genre} to {reader}.")]


@mcp.prompt()
def summarize(text: str) -> str:
    """Ask for a summary."""
    return f"Summarize for a library card: {text}"


@mcp.completion()
async def complete(
    ref: PromptReference | ResourceTemplateReference,
    argument: CompletionArgument,
    context: CompletionContext | None,
) -> Completion | None:
    if isinstance(ref, PromptReference) and ref.name == "recommend" and argument.name == "genre":
        genres = sorted({book.genre for book in SHELF})
        return Completion(values=[genre for genre in genres if genre.startswith(argument.value)])
    if isinstance(ref, ResourceTemplateReference) and argument.name == "isbn":
        return Completion(values=[book.isbn for book in SHELF if book.isbn.startswith(argument.value)])
    return None


if __name__ == "__main__":
    mcp.run()
