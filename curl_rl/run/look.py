"""What all pages look like: their colours, light and dark, and their type."""

from pathlib import Path


def style_of(page: Path) -> str:
    """Return the style sheet of a page's own file, after what pages have in common."""
    common = Path(__file__).with_name("page.css")
    return "\n".join(file.read_text(encoding="utf-8").strip() for file in (common, page))
