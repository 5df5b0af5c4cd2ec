#!/usr/bin/env python3
"""Draws the text of a terminal as an SVG: python3 docs/images/terminal.py demo.txt > docs/images/demo.svg

It must show the text as it is: only what stands before `--from` is left out, and what is too wide goes on in the next
line. A drawing, and not a photograph, because letters stay sharp and the text in it can be searched.
"""

import argparse
import html
import re
import textwrap

WIDTH = 112  # characters
LINE = 19  # pixels
LETTER = 8.43
MARGIN = 24
BAR = 36

BACK, BARCOLOUR, PLAIN, FAINT = "#11151c", "#1b212b", "#c3cbd6", "#7d8896"
STRONG, TITLE = "#f5f7fa", "#6cb6ff"
STATES = {"Open": "#ff6b6b", "HalfOpen": "#f0c94b", "Closed": "#5fd68b"}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", help="the text")
    parser.add_argument("--from", dest="start", default="", help="begin with the first line that contains this")
    parser.add_argument("--title", default="make demo")
    return parser.parse_args()


def chosen(text, start):
    """The lines from `start` on, without runs of empty ones."""
    lines = text.rstrip().splitlines()
    first = next((number for number, line in enumerate(lines) if start in line), 0)
    kept = []
    for line in lines[first:]:
        if line.strip() or (kept and kept[-1]):
            kept.extend(folded(line.rstrip()))
    return kept


def folded(line):
    """The line, or the lines it takes."""
    if len(line) <= WIDTH:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(line.strip(), WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False)


def spans(line, state_at):
    """The line as (colour, weight, text)."""
    words = line.strip()
    if words.startswith("== "):
        return [(TITLE, "bold", line)]
    if words.startswith("$ "):
        indent = line[: len(line) - len(words)]
        return [(FAINT, "normal", indent + "$ "), (STRONG, "bold", words[2:])]
    if re.match(r"\[ *[0-9.]+s\]", words):
        end = line.index("]") + 1
        return [(FAINT, "normal", line[:end]), (PLAIN, "normal", line[end:])]
    if state_at is None:
        return [(PLAIN, "normal", line)]
    if words.startswith("NAME"):
        return [(FAINT, "normal", line)]
    state = line[state_at:].split(" ", 1)[0]
    if state not in STATES:
        return [(PLAIN, "normal", line)]
    end = state_at + len(state)
    return [(PLAIN, "normal", line[:state_at]), (STATES[state], "bold", state), (PLAIN, "normal", line[end:])]


def drawn(lines, title):
    width, height = round(2 * MARGIN + WIDTH * LETTER), BAR + 2 * MARGIN + len(lines) * LINE - 6
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, \'DejaVu Sans Mono\', monospace" font-size="14">'
    )
    yield f"<title>{html.escape(title)}</title>"
    yield f'<rect width="{width}" height="{height}" rx="10" fill="{BACK}"/>'
    yield f'<path d="M0 {BAR}V10A10 10 0 0 1 10 0H{width - 10}A10 10 0 0 1 {width} 10V{BAR}Z" fill="{BARCOLOUR}"/>'
    for number, colour in enumerate(("#ff5f57", "#febc2e", "#28c840")):
        yield f'<circle cx="{22 + 20 * number}" cy="{BAR // 2}" r="6" fill="{colour}"/>'
    yield f'<text x="{width / 2}" y="{BAR / 2 + 5}" text-anchor="middle" fill="{FAINT}">{html.escape(title)}</text>'
    state_at = None
    for number, line in enumerate(lines):
        if " STATE " in line:
            state_at = line.index("STATE")
        elif not line.strip() or line.strip().startswith("$ "):
            state_at = None
        y = BAR + MARGIN + 10 + number * LINE
        column = 0
        for colour, weight, text in spans(line, state_at):
            letters = text.strip()
            if letters:
                x = MARGIN + (column + len(text) - len(text.lstrip())) * LETTER
                # The length is given, so that columns stay under each other in whatever font is there.
                yield (
                    f'<text x="{x:.1f}" y="{y}" fill="{colour}" font-weight="{weight}" xml:space="preserve" '
                    f'textLength="{len(letters) * LETTER:.1f}" lengthAdjust="spacingAndGlyphs">{html.escape(letters)}</text>'
                )
            column += len(text)
    yield "</svg>"


def main():
    wanted = arguments()
    with open(wanted.file, encoding="utf-8") as file:
        lines = chosen(file.read(), wanted.start)
    print("\n".join(drawn(lines, wanted.title)))


if __name__ == "__main__":
    main()
