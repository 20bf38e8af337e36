"""Turn the members of a tar into samples: the WebDataset naming rule, and what to do where a shard breaks it."""

from dataclasses import dataclass, field

from pipeline.images import EXTENSIONS
from pipeline.tar_index import Member, TarIndex, printable


@dataclass(kw_only=True)
class Group:
    """The members of one sample by extension, in file order; `problem` is why it cannot be processed."""

    key: str
    index: int
    members: list[tuple[str, Member]] = field(default_factory=list)
    problem: str = ""

    @property
    def extensions(self) -> set[str]:
        return {ext for ext, _ in self.members}


def split_name(name: str) -> tuple[str, str]:
    """Split a member name at the first dot after the last slash; without such a dot the extension is empty."""
    base_start = name.rfind("/") + 1
    dot = name.find(".", base_start)
    return (name, "") if dot <= base_start else (name[:dot], name[dot + 1 :])


def group_members(index: TarIndex) -> tuple[list[Group], tuple[str, ...]]:
    """Return the samples in the order of their first members, and notes on what was put right.

    Members of one key that lie apart are put together. When the key comes again with a member that the sample has already, the
    later one is a second sample of the same name: the first is kept, the second fails.
    """
    groups: list[Group] = []
    by_key: dict[str, Group] = {}
    joined: set[str] = set()
    for run in _runs(index.members):
        first = by_key.get(run.key)
        if first is not None and not first.extensions & run.extensions:
            first.members += run.members
            first.problem = first.problem or run.problem
            joined.add(run.key)
            continue
        run.index = len(groups)
        groups.append(run)
        if first is None:
            by_key[run.key] = run
        else:
            run.problem = (
                f"the key {printable(run.key)!r} comes again: sample {first.index} of this shard has it already, and is the one kept"
            )
    notes = [f"{len(joined)} samples were stored in pieces between others and were put together: {_some(joined)}"] if joined else []
    return groups, tuple(notes)


def picture_of(members: set[str], wanted: str) -> tuple[str, str]:
    """Return the extension of the picture to edit, or an empty one and the reason."""
    if wanted:
        return (wanted, "") if wanted in members else ("", f"holds no member {wanted!r} (members: {_some(members)})")
    pictures = {ext for ext in members if ext.rsplit(".", 1)[-1].lower() in EXTENSIONS}
    if len(pictures) == 1:
        return pictures.pop(), ""
    if not pictures:
        return "", f"holds no picture (members: {_some(members)}); known types: {', '.join(sorted(EXTENSIONS))}"
    rule = "a key ends at the first dot of the name, so these names share one key"
    return "", f"holds {len(pictures)} pictures ({_some(pictures)}), expected one; {rule}: rename them, or leave one picture per key"


def _runs(members: list[Member]) -> list[Group]:
    """Group neighbours of one key; a member whose name has no key stands alone."""
    runs: list[Group] = []
    for member in members:
        key, ext = split_name(member.name)
        if not runs or runs[-1].key != key or not ext or not key:
            runs.append(Group(key=key, index=0))
        run = runs[-1]
        run.problem = run.problem or _problem(run, ext, member)
        run.members.append((ext, member))
    return runs


def _problem(run: Group, ext: str, member: Member) -> str:
    name = printable(member.name)
    if member.problem:
        return f"the member {name!r} is {member.problem}"
    if name != member.name:
        return f"the member name {name!r} is not valid UTF-8: rename the file"
    if not ext:
        return f"the file name {name!r} has no key and extension: expected KEY.EXTENSION, such as 0001.jpg"
    if ext in run.extensions:
        return f"the member {name!r} is stored twice in one sample, and nobody can say which is right"
    return ""


def _some(names: set[str]) -> str:
    ordered = [printable(name) for name in sorted(names)]
    return ", ".join(ordered[:8]) + (f" and {len(ordered) - 8} more" if len(ordered) > 8 else "")
