"""Small histograms as markup inside a page, drawn from numbers alone and coloured by the stylesheet's classes."""

from collections.abc import Sequence

from markupsafe import Markup

HEIGHT = 48
"""Height of the tallest bar, in pixels, as are the other two."""

STEP = 16
"""From the left of one bar to that of the next."""

GAP = 2
"""The room between two bars."""


def bars_svg(counts: Sequence[int], labels: Sequence[str], words: str) -> Markup:
    """Draw a bar for each count; a bar with anything in it stays visible.

    Args:
        counts: [bins], not negative.
        labels: [bins], shown where the pointer rests on a bar.
        words: What the picture shows, for those who do not see it.

    Raises:
        ValueError: There are more labels than counts, or fewer.
    """
    most = max(counts, default=0) or 1
    bars = Markup()
    for number, (count, label) in enumerate(zip(counts, labels, strict=True)):
        height = max(2.0, HEIGHT * count / most) if count else 0.0
        bars += Markup('<rect x="{}" y="{:.1f}" width="{}" height="{:.1f}"><title>{}</title></rect>').format(
            number * STEP, HEIGHT - height, STEP - GAP, height, label
        )
    width = max(1, len(counts)) * STEP
    return Markup(
        '<svg class="bars" viewBox="0 0 {} {}" role="img" aria-label="{}" preserveAspectRatio="none">'
        '<line x1="0" x2="{}" y1="{}" y2="{}"/>{}</svg>'
    ).format(width, HEIGHT + 1, words, width, HEIGHT + 0.5, HEIGHT + 0.5, bars)
