"""What of a data set needs attention, from the facts about its pictures."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from gan.data.halves import Middle
from runner.config.schema import PATCH_SIZES, Data
from runner.data.checking.facts import Facts, collect_facts
from runner.data.checking.plausibility import single_pictures, swapped_sides
from runner.data.sources import SPLITS, Source
from runner.number_format import byte_size, counted

_NEAR = 0.95  # of 1; a picture saved again at any quality or size has 0.99 and more, different ones 0.67 at most
_COMPARED_AT_ONCE = 4096  # pictures of train: a block of the table of similarities has 64 MB


class Finding(NamedTuple):
    """One kind of trouble.

    Attributes:
        kind: for programs, in one word or two.
        text: a sentence.
        files: the pictures that it is about, "train/1.jpg", each with what is known of it, or "".
    """

    kind: str
    text: str
    files: Mapping[str, str] = MappingProxyType({})


class Report(NamedTuple):
    """What a data set is, and what needs attention.

    Attributes:
        facts: of all pictures that were looked at, in the order of the source.
        findings: what needs attention; empty where nothing does.
    """

    source: Source
    facts: Sequence[Facts]
    findings: Sequence[Finding]

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row for each split: numbers of pictures, bytes, and how many there are of each size."""
        for split in SPLITS:
            facts = [fact for fact in self.facts if fact.picture.split == split]
            usable = [fact for fact in facts if not fact.problem]
            yield {
                "split": split,
                "pictures": len(facts),
                "usable": len(usable),
                "bytes": sum(fact.num_bytes for fact in facts),
                "sizes": dict(Counter(_size(fact) for fact in usable).most_common()),
            }

    def content(self, directory: str) -> dict[str, Any]:
        """All of it for a JSON file, without pictures."""
        return {
            "directory": directory,
            "layout": self.source.description,
            "splits": list(self.rows()),
            "passed_over": [file.name for file in self.source.passed_over],
            "needs_attention": bool(self.findings),
            "findings": [{**finding._asdict(), "files": dict(finding.files)} for finding in self.findings],
        }


def examine(source: Source, advance: Callable[[], None] = lambda: None) -> Report:
    """Reads all pictures of a source that is a directory.

    Args:
        advance: called once for each picture.
    """
    facts = collect_facts(source.pictures, advance)
    usable = [fact for fact in facts if not fact.problem]
    kinds = (
        _unusable(facts),
        _single(facts, usable),
        _swapped(usable),
        _too_small(usable),
        _constant(usable),
        _mixed_shapes(usable),
        _duplicates(usable),
        _near_duplicates(usable),
    )
    return Report(source, facts, [finding for finding in kinds if finding is not None])


def _unusable(facts: Sequence[Facts]) -> Finding | None:
    files = {fact.name: fact.problem for fact in facts if fact.problem}
    text = f"{counted(len(files), 'picture')} can't be used"
    if len(files) > Data().max_bad_fraction * len(facts):
        text += (
            f": {100 * len(files) / len(facts):.0f} % of all, and more than {100 * Data().max_bad_fraction:g} % "
            "(data.max_bad_fraction) stop a run"
        )
    return Finding("unusable", text, files) if files else None


def _single(facts: Sequence[Facts], usable: Sequence[Facts]) -> Finding | None:
    """Pictures that are no pairs: all of them, or some among pairs."""
    looks = [fact.look for fact in facts if fact.look is not None]
    if problem := single_pictures(looks):
        return Finding("no pairs", f"the pictures do not look like pairs: {problem}")

    # A picture whose middle says nothing is no reason to worry among others like it.
    files = {fact.name: "" for fact in usable if fact.look is not None and fact.look.middle is Middle.CONTINUED}
    text = f"{counted(len(files), 'picture')} among pairs {_verb(files, 'looks', 'look')} like a single picture"
    return Finding("no pairs", f"{text}: the left half goes on in the right half", files) if files else None


def _swapped(usable: Sequence[Facts]) -> Finding | None:
    """Sides that are swapped in most pictures, or in some."""
    looks = [fact.look for fact in usable if fact.look is not None]
    if not looks or single_pictures(looks):
        return None
    if text := swapped_sides(looks):
        return Finding("swapped sides", text)
    files = {fact.name: "" for fact in usable if fact.look is not None and fact.look.is_swapped}
    text = (
        f"in {counted(len(files), 'picture')} A has larger areas of one colour than B, and in most it is the other way"
    )
    return Finding("swapped sides", text, files) if files else None


def _too_small(usable: Sequence[Facts]) -> Finding | None:
    """Halves that no patch fits into."""
    files = {
        fact.name: f"halves of {'x'.join(map(str, fact.half_size))} pixels"
        for fact in usable
        if fact.smallest_side < PATCH_SIZES[0]
    }
    text = f"{counted(len(files), 'picture')} {_verb(files, 'is', 'are')} smaller than the smallest patch"
    return Finding("too small", f"{text}, {PATCH_SIZES[0]}x{PATCH_SIZES[0]} pixels", files) if files else None


def _constant(usable: Sequence[Facts]) -> Finding | None:
    files = {fact.name: f"{' and '.join(fact.constant_sides)} of one colour" for fact in usable if fact.constant_sides}
    text = f"{counted(len(files), 'picture')} {_verb(files, 'has', 'have')} a side of one colour"
    return Finding("one colour", f"{text}: nothing can be learned from it", files) if files else None


def _mixed_shapes(usable: Sequence[Facts]) -> Finding | None:
    counts = Counter(_size(fact) for fact in usable)
    if len(counts) < 2:
        return None
    common = counts.most_common(1)[0][0]
    files = {fact.name: f"{_size(fact)} pixels" for fact in usable if _size(fact) != common}
    others = f"{len(files)} {_verb(files, 'has another shape', 'have other shapes')}"
    return Finding("mixed shapes", f"most pictures have {common} pixels, and {others}", files)


def _duplicates(usable: Sequence[Facts]) -> Finding | None:
    """Files with the same bytes, wherever they are."""
    first: dict[str, Facts] = {}
    files, num_leaks = {}, 0
    for fact in usable:
        other = first.setdefault(fact.digest, fact)
        if other is not fact:
            files[fact.name] = f"as {other.name}"
            num_leaks += other.picture.split != fact.picture.split
    leak = f"; {num_leaks} of val {'is' if num_leaks == 1 else 'are'} in train, too: validation would be too good"
    text = f"{counted(len(files), 'picture')} {_verb(files, 'is', 'are')} there a second time"
    return Finding("duplicates", text + (leak if num_leaks else ""), files) if files else None


def _near_duplicates(usable: Sequence[Facts]) -> Finding | None:
    """Pictures of val that are almost the same as one of train: saved again, scaled, brighter, or mirrored."""
    train, val = (
        [(fact, fact.thumbnail) for fact in usable if fact.picture.split == split and fact.thumbnail is not None]
        for split in SPLITS
    )
    if not train or not val:
        return None

    thumbnails = np.stack([thumbnail for _, thumbnail in val])
    upright, mirrored = (each.reshape(len(val), -1) for each in (thumbnails, thumbnails[..., ::-1]))
    files: dict[str, str] = {}
    for start in range(0, len(train), _COMPARED_AT_ONCE):
        block = train[start : start + _COMPARED_AT_ONCE]
        others = np.stack([thumbnail for _, thumbnail in block]).reshape(len(block), -1).T
        similar = np.maximum(upright @ others, mirrored @ others)
        for index_val, index_train in np.argwhere(similar > _NEAR):
            one, other = val[index_val][0], block[index_train][0]
            if one.digest != other.digest:  # those are duplicates
                files[one.name] = f"{100 * similar[index_val, index_train]:.0f} % like {other.name}"
    text = f"{counted(len(files), 'picture')} of val {_verb(files, 'is', 'are')} almost the same as one of train"
    return Finding("near duplicates", f"{text}: validation would be too good", files) if files else None


def patch_size_note(report: Report) -> str:
    """Which patch sizes the pictures allow, where that is not the default; else ""."""
    default = Data().patch_size
    smallest = min((fact.smallest_side for fact in report.facts if not fact.problem), default=default)
    fitting = [size for size in PATCH_SIZES if size <= smallest]
    if smallest >= default or not fitting:
        return ""
    return (
        f"the smallest half has a side of {smallest} pixels: --set data.patch_size={fitting[-1]} uses all pictures "
        f"(the default is {default})"
    )


def _size(fact: Facts) -> str:
    """Width and height of both halves together."""
    return "{}x{}".format(*fact.look.size) if fact.look else ""


def _verb(files: Mapping[str, str], one: str, several: str) -> str:
    return one if len(files) == 1 else several


def describe_size(row: dict[str, Any]) -> str:
    """The sizes of a split's pictures: "1200x600", or the most common ones with their numbers."""
    sizes = list(row["sizes"].items())
    if len(sizes) == 1:
        return str(sizes[0][0])
    shown = ", ".join(f"{count} of {size}" for size, count in sizes[:2])
    return shown + (f", {len(sizes) - 2} more" if len(sizes) > 2 else "") or "-"


def describe_bytes(row: dict[str, Any]) -> str:
    """The bytes of a split, for a table."""
    return byte_size(row["bytes"])
