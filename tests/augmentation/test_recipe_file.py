"""A recipe file says what is done; a mistake in it is answered with its place and what would work."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest
import yaml

from augmentation.edits import Edit, Gates, Strength
from augmentation.recipe import Drawn, Recipe, RecipeError
from augmentation.recipe_file import load_recipe
from models.instruction import InstructionError, load_instructions
from pipeline.plan import parse_instructions
from portraits.captions import _ADJECTIVES, PHRASES
from tests.augmentation.small_recipe import ROOT

INSTRUCTIONS = """
- {name: smile, source: a face, target: a smiling face, strength: 0.85, expects: {smile: true}}
- {name: sad, source: a face, target: a sad face, expects: {sad: true, smile: false}}
- {name: glasses, source: a face, target: a face with glasses, strength: 4, expects: {glasses: true}}
- {name: odd, source: a face, target: an odd face}
"""
PLAIN = "edits: [smile, glasses]\naccepted: {per_sample: 1}\n"


def read(folder: Path, text: str) -> Recipe:
    """Read a recipe whose instructions lie beside it."""
    known, recipe = folder / "known.yaml", folder / "recipe.yaml"
    known.write_text(INSTRUCTIONS)
    recipe.write_text(f"instructions: {known}\n{text}")
    return load_recipe(str(recipe), instructions=parse_instructions)


def refused(folder: Path, text: str) -> str:
    """Read a recipe that must be refused; return what is said behind the name of the file."""
    with pytest.raises(RecipeError) as caught:
        read(folder, text)
    place, said = f"--recipe {folder / 'recipe.yaml'}: ", str(caught.value)
    assert said.startswith(place)
    return said[len(place) :]


def test_a_recipe_is_read_into_what_it_says(tmp_path: Path) -> None:
    recipe = read(
        tmp_path,
        """
edits:
  - smile
  - {instruction: glasses, weight: 2, strength: [0.5, 1.5], gates: {success: 0.8, identity: 0.4, realism: null}}
  - {instruction: [smile, glasses], name: both, strength: auto, caption: "{caption}, changed"}
accepted: {per_sample: 2}
attempts: 4
originals: inverted
labels: json:a.b
gates: {success: 0.9, collateral: 1}
auto: {low: 0.3, high: 1.2, steps: 6}
drawn: {count: 7, truncation: 0.6, seed: 3, shard_size: 2, realism: 0.9}
words: {smile: [smiling, happy]}
carry: [npy]
keep_rejected: 0
seed: 5
""",
    )
    smile, _, glasses, _ = load_instructions(str(tmp_path / "known.yaml"))
    gates = Gates(success=0.9, collateral=1)
    assert recipe == Recipe(
        edits=(
            Edit(name="smile", instructions=(smile,), gates=gates),
            Edit(
                name="glasses", instructions=(glasses,), weight=2.0, strength=Strength(low=0.5, high=1.5),
                gates=Gates(success=0.8, identity=0.4, collateral=1, realism=None),
            ),
            Edit(
                name="both", instructions=(smile, glasses), gates=gates, caption="{caption}, changed",
                strength=Strength(low=0.3, high=1.2, auto=True, steps=6),
            ),
        ),
        per_sample=2, attempts=4, originals="inverted", labels="json:a.b", carry=("npy",), keep_rejected=0, seed=5,
        drawn=Drawn(count=7, truncation=0.6, seed=3, shard_size=2, realism=0.9), words={"smile": ("smiling", "happy")},
    )  # fmt: skip
    assert recipe.edit("both").expects == {"smile": True, "glasses": True} and not recipe.planned


def test_what_a_recipe_leaves_out_has_a_default(tmp_path: Path) -> None:
    recipe = read(tmp_path, PLAIN)
    assert recipe.originals == "aligned" and recipe.labels == "classifier" and recipe.drawn is None
    for edit in recipe.edits:
        assert edit.gates == Gates(success=0.99, identity="same_person", collateral=2, realism=1.0)
        assert edit.strength == Strength(low=1.0, high=1.0) and edit.weight == 1 and not edit.caption


def test_there_are_short_ways_to_say_the_usual(tmp_path: Path) -> None:
    short = read(tmp_path, "edits: [smile, glasses]\naccepted: {per_edit: 30}\ndrawn: 12\n")
    assert short.per_edit == {"smile": 30, "glasses": 30} and short.drawn == Drawn(count=12) and short.planned
    long = read(tmp_path, "edits: [smile, glasses]\naccepted: {per_edit: {glasses: 5}}\n")
    assert long.per_edit == {"glasses": 5}
    inline = tmp_path / "inline.yaml"
    inline.write_text(
        "instructions: ['grin: a face -> a grin']\nedits: [{instruction: grin, gates: {success: null}}]\naccepted: {per_sample: 1}"
    )
    (grin,) = load_recipe(str(inline), instructions=parse_instructions).edits
    assert grin.instructions[0].target == "a grin" and grin.gates.success is None


def test_a_balance_is_equal_shares_or_those_that_are_given(tmp_path: Path) -> None:
    equal = read(tmp_path, "edits: [smile, glasses]\naccepted: {balance: [smile, glasses]}\n").balance
    assert equal is not None and equal.size is None
    assert {str(group): share for group, share in equal.shares} == dict.fromkeys(
        ["smile, glasses", "smile, no glasses", "no smile, glasses", "no smile, no glasses"], 0.25
    )
    given = read(
        tmp_path, "edits: [smile]\naccepted: {balance: {attributes: [smile], shares: {smile: 0.7, no smile: 0.3}, size: 50}}\n"
    ).balance
    assert given is not None and given.size == 50
    assert {str(group): share for group, share in given.shares} == {"smile": 0.7, "no smile": 0.3}
    assert str(given.group_of({"hat": True})) == "no smile" and str(given.group_of({"smile": True})) == "smile"


def test_drawn_pictures_need_no_edits(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("drawn: 3")
    recipe = load_recipe(str(tmp_path / "recipe.yaml"), instructions=parse_instructions)
    assert recipe.edits == () and recipe.drawn == Drawn(count=3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("edts: []", "the recipe: unknown 'edts': did you mean 'edits'? valid: instructions, edits, accepted"),
        ("edits: smile", "edits: expected a list, found 'smile'"),
        ("edits: [{instruction: smile, wait: 2}]", "edits, entry 1: unknown 'wait': did you mean 'weight'?"),
        ("edits: [smile, 7]", "edits, entry 2: expected instruction, name, weight, strength, gates, caption, found 7"),
        ("edits: [smile, smil]", "edits, entry 2: unknown instruction 'smil': did you mean 'smile'? valid: smile, sad, glasses, odd"),
        ("edits: [{weight: 2}]", "edits, entry 1: instruction: "),
        ("edits: [{instruction: [[smile, sad]]}]", "edits, entry 1: unknown instruction ['smile', 'sad']: "),
        ("edits: [{instruction: [smile, smile]}]", "edits, entry 1: combines 'smile' with itself; say `strength: 2` to have more of it"),
        ("edits: [{instruction: []}]", "edits, entry 1: instruction names 0, expected one, or a list of two to combine"),
        ("edits: [{instruction: [smile, sad, glasses]}]", "edits, entry 1: instruction names 3, expected one, or a list of two"),
        ("edits: [{instruction: smile, name: Big Smile}]", "edits, entry 1: name 'Big Smile': expected lower-case letters"),
        ("edits: [{instruction: smile, name: ''}]", "edits, entry 1: name: expected a text, found ''"),
        ("edits: [{instruction: smile, caption: 3}]", "edits, entry 1: caption: expected a text, found 3"),
        (
            "edits: [smile, {instruction: glasses, name: smile}]\naccepted: {per_edit: 1}",
            "edits: two are called 'smile'; give one another `name`",
        ),
        (
            "edits: [{instruction: [smile, sad]}]\naccepted: {per_edit: 1}",
            "edit 'smile-sad': smile and sad expect opposites of 'smile'; combine others",
        ),
        ("edits: []", "edits: none given; list some ('- instruction: smile'), or ask for drawn samples (drawn: {count: 1000})"),
        ("accepted: {per_sample: 1}\ndrawn: 3", "edits: none given; list some"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_edits_is_named_with_its_place(tmp_path: Path, text: str, expected: str) -> None:
    assert refused(tmp_path, text).startswith(expected)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("weight: 0", "weight: expected a number above 0, found 0"),
        ("weight: -1", "weight: expected a number above 0, found -1"),
        ("weight: heavy", "weight: expected a number above 0, found 'heavy'"),
        ("weight: true", "weight: expected a number above 0, found True"),
        ("weight: .nan", "weight: expected a number above 0, found nan"),
        ("weight: .inf", "weight: expected a number above 0, found inf"),
        ("strength: 0", "strength: expected a number above 0, found 0"),
        ("strength: -1", "strength: expected a number above 0, found -1"),
        ("strength: strong", "strength: 'strong': expected a number, a range such as [0.6, 1.2], or auto"),
        ("strength: [1.2, 0.6]", "strength: [1.2, 0.6]: the range begins above its end; write [0.6, 1.2]"),
        ("strength: [1]", "strength: [1]: a range has two ends, such as [0.6, 1.2]"),
        ("strength: [0.1, 0.2, 0.3]", "strength: [0.1, 0.2, 0.3]: a range has two ends"),
        ("gates: {sucess: 0.9}", "gates: unknown 'sucess': did you mean 'success'? valid: success, identity, collateral, realism"),
        ("gates: {success: 1.5}", "gates.success: expected a number above 0 and at most 1, found 1.5"),
        ("gates: {success: 0}", "gates.success: expected a number above 0 and at most 1, found 0"),
        ("gates: {identity: same_preson}", "gates.identity: 'same_preson': did you mean 'same_person'?"),
        ("gates: {identity: 2}", "gates.identity: expected a number above -1 and at most 1, found 2"),
        ("gates: {collateral: 0.5}", "gates.collateral: expected a whole number of 0 or more, found 0.5"),
        ("gates: {realism: 0}", "gates.realism: expected a number above 0, found 0"),
        ("strength: 12", "comes to a strength of 10.2, at most 10 works; lower `strength` or `auto.high`"),
        ("strength: [0.5, 20]", "comes to a strength of 17, at most 10 works; lower `strength` or `auto.high`"),
        ("name: original", "the name 'original' stands for something else; avoid aligned, drawn, edits, inversion"),
        ("name: drawn", "the name 'drawn' stands for something else"),
        ("gates: 3", "gates: expected success, identity, collateral, realism, found 3"),
    ],
)
def test_a_mistake_in_an_edit_is_named_with_its_place(tmp_path: Path, fields: str, expected: str) -> None:
    said = refused(tmp_path, f"edits: [glasses, {{instruction: smile, {fields}}}]\naccepted: {{per_sample: 1}}")
    assert said.startswith(f"edits, entry 2: {expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("edits: [odd]\naccepted: {per_sample: 1}", "edit 'odd': the gate `success` needs to know what should be seen: add `expects`"),
        (
            "edits: [{instruction: odd, strength: auto, gates: {success: null}}]\naccepted: {per_sample: 1}",
            "edit 'odd': strength: auto needs to know what should be seen: add `expects`, such as {smile: true}",
        ),
        (
            "edits: [{instruction: smile, strength: auto, gates: {success: null}}]\naccepted: {per_sample: 1}",
            "edit 'smile': strength: auto looks for what the gate `success` asks, which is null; give it a probability",
        ),
        ("edits: [smile]", "accepted: says nothing; say one of per_sample: 2, per_edit: {smile: 500} and balance: {attributes: [smile]}"),
        ("edits: [smile]\naccepted: {per_sample: 1, per_edit: 3}", "accepted: says several; say one of"),
        ("edits: [smile]\naccepted: {per_sampel: 1}", "accepted: unknown 'per_sampel': did you mean 'per_sample'?"),
        ("edits: [smile]\naccepted: {per_sample: -1}", "accepted.per_sample: expected a whole number of 0 or more, found -1"),
        (
            "edits: [smile]\naccepted: {per_sample: 2}",
            "accepted.per_sample: 2 edits of every sample, but the recipe has 1, and each is tried once; lower it, or add edits",
        ),
        ("edits: [smile, glasses]\naccepted: {per_sample: 2}\nattempts: 1", "attempts: 1 cannot come to accepted.per_sample 2; raise it"),
        ("edits: [smile]\naccepted: {per_edit: {smlie: 3}}", "accepted.per_edit: no edit is called 'smlie': did you mean 'smile'?"),
        ("edits: [smile]\naccepted: {per_edit: {smile: 0}}", "accepted.per_edit.smile: expected a whole number of 1 or more, found 0"),
        ("edits: [smile]\naccepted: {per_edit: many}", "accepted.per_edit: expected a whole number of 1 or more, found 'many'"),
    ],
)
def test_a_wish_that_cannot_come_true_is_refused_with_the_fix(tmp_path: Path, text: str, expected: str) -> None:
    assert refused(tmp_path, text).startswith(expected)


@pytest.mark.parametrize(
    ("balance", "expected"),
    [
        ("smile", ": expected attributes, shares, size, found 'smile'"),
        ("[]", ".attributes: expected one to four different attributes, found []"),
        ("[smile, smile]", ".attributes: expected one to four different attributes, found ['smile', 'smile']"),
        ("[a, b, c, d, e]", ".attributes: expected one to four different attributes, found ['a', 'b'"),
        ("{attributes: smile}", ".attributes: expected a list, found 'smile'"),
        ("{atributes: [smile]}", ": unknown 'atributes': did you mean 'attributes'?"),
        ("{attributes: [smile], size: 0}", ".size: expected a whole number of 1 or more, found 0"),
        ("{attributes: [smile], shares: {smiles: 1}}", ".shares: unknown 'smiles': did you mean 'smile'? valid: smile, no smile"),
        ("{attributes: [smile], shares: {smile: 0.5}}", ".shares: they add up to 0.5, expected 1"),
        ("{attributes: [smile], shares: {smile: 0.8, no smile: 0.3}}", ".shares: they add up to 1.1, expected 1"),
        ("{attributes: [smile], shares: {smile: 1.5, no smile: -0.5}}", ".shares.no smile: expected a number of at least 0, found -0.5"),
        ("[hat]", ": impossible, no edit of the recipe changes 'hat'; add one whose instruction expects {hat: true} or {hat: false}"),
    ],
)
def test_a_balance_that_cannot_be_is_refused_with_the_fix(tmp_path: Path, balance: str, expected: str) -> None:
    assert refused(tmp_path, f"edits: [smile]\naccepted: {{balance: {balance}}}").startswith(f"accepted.balance{expected}")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            "drawn: 3",
            "drawn: drawn pictures would upset accepted.balance; draw them into an output of their own, by a recipe without edits",
        ),
        (
            "originals: none",
            "accepted.balance: with originals: none it needs a size; say how many samples there shall be, such as size: 1000",
        ),
        (
            "gates: {success: 0.4}",
            "edit 'smile': a balance needs to know that an edit shows what its group has; say gates: {success: 0.5} or more",
        ),
        ("gates: {success: null}", "edit 'smile': a balance needs to know that an edit shows what its group has"),
    ],
)
def test_what_would_upset_a_balance_is_refused_with_the_fix(tmp_path: Path, more: str, expected: str) -> None:
    assert refused(tmp_path, f"edits: [smile]\naccepted: {{balance: [smile]}}\n{more}").startswith(expected)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("attempts: 0", "attempts: expected a whole number of 1 or more, found 0"),
        ("originals: aligend", "originals: 'aligend': did you mean 'aligned'? valid: aligned, inverted, untouched, none"),
        ("labels: jsn", "labels: 'jsn': expected classifier, or a member of the input and a place in it, such as json:attributes"),
        ("labels: ':attributes'", "labels: ':attributes': expected classifier, or a member of the input"),
        ("labels: [json]", "labels: expected a text, found ['json']"),
        ("carry: npy", "carry: expected a list, found 'npy'"),
        ("carry: [1]", "carry: expected a text, found 1"),
        ("keep_rejected: -1", "keep_rejected: expected a whole number of 0 or more, found -1"),
        ("seed: 0.5", "seed: expected a whole number of 0 or more, found 0.5"),
        ("gates: {identity: nobody}", "gates.identity: 'nobody': valid: same_person"),
        ("auto: {lo: 1}", "auto: unknown 'lo': did you mean 'low'? valid: low, high, steps"),
        ("auto: {low: 2, high: 1}", "auto: low 2 is not below high 1; `strength: 1` at an edit fixes it"),
        (
            "auto: {low: 1, high: 3}\nedits: [{instruction: glasses, strength: auto}]",
            "edits, entry 1: comes to a strength of 12, at most 10",
        ),
        ("auto: {steps: 0}", "auto.steps: expected a whole number of 1 or more, found 0"),
        ("drawn: {}", "drawn.count: expected a whole number of 1 or more, found None"),
        ("drawn: true", "drawn.count: expected a whole number of 1 or more, found True"),
        ("drawn: {count: 3, truncaton: 1}", "drawn: unknown 'truncaton': did you mean 'truncation'?"),
        ("drawn: {count: 3, truncation: 1.5}", "drawn.truncation: expected a number above 0 and at most 1, found 1.5"),
        ("drawn: {count: 2, seed: 9223372036854775806}", "drawn.seed: 9223372036854775806 with 2 pictures goes beyond 9223372036854775807"),
        ("drawn: {count: 3, shard_size: 0}", "drawn.shard_size: expected a whole number of 1 or more, found 0"),
        ("words: [smile]", "words: expected attributes with lists of phrases, or a YAML file of such, found ['smile']"),
        ("words: {smile: happy}", "words.smile: expected a list, found 'happy'"),
        ("words: {smile: ['']}", "words.smile: expected a text, found ''"),
        ("words: missing.yaml", "words missing.yaml: no such file; it takes a YAML file such as configs/augment/portraits_words.yaml"),
        ("instructions: 3", "instructions: expected a list, found 3"),
    ],
)
def test_a_mistake_elsewhere_is_named_with_its_place(tmp_path: Path, more: str, expected: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    (tmp_path / "known.yaml").write_text(INSTRUCTIONS)
    known = "" if more.startswith("instructions") else f"instructions: {tmp_path / 'known.yaml'}\n"
    recipe.write_text(f"{known}{PLAIN}{more}")
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(recipe), instructions=parse_instructions)
    assert str(caught.value).startswith(f"--recipe {recipe}: {expected}")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"edits: [", "not valid YAML: while parsing"),
        (b"\xff\xfe\x00", "not valid YAML: "),
        (b"", "the recipe: expected instructions, edits, accepted"),
        (b"- smile", "the recipe: expected instructions, edits, accepted"),
        (b"edits: [smile]", "edits, entry 1: unknown instruction 'smile': list a file in `instructions`"),
        (None, "no such file; it takes a YAML file such as configs/augment/portraits.yaml"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: bytes | None, expected: str) -> None:
    if content is not None:
        (tmp_path / "recipe.yaml").write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(tmp_path / "recipe.yaml"), instructions=parse_instructions)
    assert str(caught.value).startswith(f"--recipe {tmp_path / 'recipe.yaml'}: {expected}")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"--recipe {tmp_path}: is a folder, expected a YAML file"):
        load_recipe(str(tmp_path), instructions=parse_instructions)


def test_words_and_recipe_may_lie_anywhere(tmp_path: Path) -> None:
    (tmp_path / "known.yaml").write_text(INSTRUCTIONS)
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/recipes/words.yaml", b"smile: [smiling]")
    memory.pipe_file("/recipes/r.yaml", f"instructions: {tmp_path / 'known.yaml'}\n{PLAIN}words: memory://recipes/words.yaml".encode())
    assert load_recipe("memory://recipes/r.yaml", instructions=parse_instructions).words == {"smile": ("smiling",)}
    memory.pipe_file("/recipes/words.yaml", b"smile: [")
    with pytest.raises(RecipeError, match=r"words memory://recipes/words\.yaml: not valid YAML"):
        load_recipe("memory://recipes/r.yaml", instructions=parse_instructions)


def test_a_mistake_in_an_instruction_is_the_instructions_own(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(f"instructions: {tmp_path / 'none.yaml'}\n{PLAIN}")
    with pytest.raises(InstructionError, match=r"none\.yaml: no such file"):
        load_recipe(str(tmp_path / "recipe.yaml"), instructions=parse_instructions)


@pytest.mark.parametrize("name", ["portraits", "balance"])
def test_the_recipes_that_come_along_can_be_read(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(ROOT)
    recipe = load_recipe(f"configs/augment/{name}.yaml", instructions=parse_instructions)
    assert recipe.edits and all(edit.strength.auto for edit in recipe.edits) and recipe.words["smile"]
    assert recipe.planned == (name == "balance")


def test_the_words_that_come_along_are_those_of_the_portraits() -> None:
    words = yaml.safe_load((ROOT / "configs" / "augment" / "portraits_words.yaml").read_text())
    assert words == {name: [*phrases, *_ADJECTIVES.get(name, ())] for name, phrases in PHRASES.items()}


def test_what_decides_on_the_bytes_is_plain_and_tells_recipes_apart(tmp_path: Path) -> None:
    more = ["", "seed: 1", "gates: {success: 0.9}", "originals: none", "labels: json:x", "attempts: 2", "drawn: 3", "carry: [npy]"]
    contents = [yaml.safe_dump(read(tmp_path, f"{PLAIN}{one}").content()) for one in more]
    assert len(set(contents)) == len(contents)
    assert yaml.safe_dump(read(tmp_path, PLAIN).content()) == contents[0]


def test_a_recipe_at_a_place_that_nobody_can_read_is_refused() -> None:
    with pytest.raises(RecipeError, match="--recipe s4://bucket/recipe.yaml: cannot be read"):
        load_recipe("s4://bucket/recipe.yaml", instructions=parse_instructions)
