from dataclasses import replace

import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from laws import assert_refused_by_name
from strategies import damaged, skeletons

import kinlmr.skeleton
from kinlmr import Part, Skeleton, load_skeleton
from kinlmr.files import yaml_text as documents
from kinlmr.files.yaml_text import MAX_BYTES
from kinlmr.skeleton import installed, parse

ARM = """\
name: arm
joints:
  shoulder: null
  elbow: shoulder
  wrist: elbow
parts:
  upper: [shoulder, elbow]
  lower: [wrist]
given: parents
"""

SIZES = {
    "flame.yaml": 5,
    "mano.yaml": 16,
    "smal.yaml": 35,
    "smpl.yaml": 24,
    "smpl_chain.yaml": 24,
    "smpl_independent.yaml": 24,
    "smpl_ktd.yaml": 24,
    "smpl_pairs.yaml": 24,
    "smpl_single.yaml": 24,
    "smplh.yaml": 52,
    "smplx.yaml": 55,
}


def test_a_skeleton_is_read_as_written():
    assert parse(ARM) == Skeleton(
        "arm",
        ("shoulder", "elbow", "wrist"),
        (None, "shoulder", "elbow"),
        (Part("upper", ("shoulder", "elbow")), Part("lower", ("wrist",))),
        "parents",
    )


@given(skeletons())
def test_yaml_round_trip(skeleton):
    again = parse(skeleton.to_yaml())
    assert again == skeleton
    assert hash(again) == hash(skeleton)


def test_names_that_yaml_would_turn_into_values():
    text = "name: on\njoints: {no: null, yes: no, 'null': yes, on: 'null'}\nparts: {off: [no, yes, 'null', on]}\n"
    skeleton = parse(text)
    assert skeleton.joints == ("no", "yes", "null", "on")
    assert skeleton.parents == (None, "no", "yes", "null")
    assert parse(skeleton.to_yaml()) == skeleton
    assert all(type(name) is str for name in (skeleton.name, *skeleton.joints, skeleton.parts[0].name))


def test_the_installed_skeletons():
    assert {name: len(load_skeleton(name).joints) for name in installed()} == SIZES


def test_smpl_is_the_papers():
    smpl = load_skeleton("smpl.yaml")
    index = {joint: i for i, joint in enumerate(smpl.joints)}
    parents = [-1 if p is None else index[p] for p in smpl.parents]
    assert parents == [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21]
    assert {p.name: [index[j] for j in p.joints] for p in smpl.parts} == {
        "root": [0, 3, 6, 9],
        "head": [12, 15],
        "left_arm": [13, 16, 18, 20, 22],
        "right_arm": [14, 17, 19, 21, 23],
        "left_leg": [1, 4, 7, 10],
        "right_leg": [2, 5, 8, 11],
    }


@pytest.mark.parametrize(("name", "joints"), [("smplh.yaml", 52), ("smplx.yaml", 55)])
def test_the_larger_bodies_begin_with_smpls(name, joints):
    small, large = load_skeleton("smpl.yaml"), load_skeleton(name)
    assert large.joints[:22] == small.joints[:22]
    assert large.parents[:22] == small.parents[:22]
    index = {joint: i for i, joint in enumerate(large.joints)}
    hands = [index[p] for p in large.parents[joints - 30 :] if p]
    first = joints - 30
    for hand, wrist in ((0, 20), (1, 21)):
        for finger in range(5):
            at = first + 15 * hand + 3 * finger
            assert hands[at - first : at - first + 3] == [wrist, at, at + 1]


def test_a_skeleton_object_passes_through():
    skeleton = parse(ARM)
    assert load_skeleton(skeleton) is skeleton


def test_a_path_comes_before_an_installed_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smpl.yaml").write_text(ARM)
    assert load_skeleton("smpl.yaml").name == "arm"
    assert load_skeleton(tmp_path / "smpl.yaml").name == "arm"


REFUSED = {
    # what is wrong: (old, new, what the message must say, its line)
    "duplicate joint": ("  wrist: elbow", "  elbow: shoulder", "'elbow' stands twice", 5),
    "duplicate part": ("  lower: [wrist]", "  upper: [wrist]", "'upper' stands twice", 8),
    "root called none": (
        "shoulder: null", "shoulder: none", "'none', which is not a joint; the root's parent is written null", 3),
    "given empty": ("given: parents", "given:", "given is empty; write 'none', or leave the key out", 9),
    "second root": ("wrist: elbow", "wrist: null", "'wrist' is a second root beside 'shoulder'", 5),
    "no parent is a root too": ("wrist: elbow", "wrist:", "'wrist' is a second root", 5),
    "unknown parent": ("wrist: elbow", "wrist: elbov", "'elbov', which is not a joint; did you mean 'elbow'?", 5),
    "cycle": ("shoulder: null", "shoulder: wrist", "shoulder -> wrist -> elbow -> shoulder", 3),
    "self": ("wrist: elbow", "wrist: wrist", "wrist -> wrist", 5),
    "two parts": ("lower: [wrist]", "lower: [wrist, elbow]", "joint 'elbow' is in parts 'upper' and 'lower'", 8),
    "twice in one": ("lower: [wrist]", "lower: [wrist, wrist]", "joint 'wrist' is twice in part 'lower'", 8),
    "no part": ("[shoulder, elbow]", "[shoulder]", "in no part: 'elbow'", 4),
    "empty part": ("[wrist]", "[wrist]\n  hand: []", "part 'hand' is empty", 9),
    "null part": ("[wrist]", "[wrist]\n  hand:", "part 'hand' is empty", 9),
    "unknown joint": ("[wrist]", "[wrist, hand]", "'hand', which is not a joint", 8),
    "unknown mode": ("given: parents", "given: parent", "given is 'parent'", 9),
    "given unknown part": ("parents", "{lower: [uper]}", "'uper', which is not a part; did you mean 'upper'?", 9),
    "given of unknown part": ("parents", "{lover: [upper]}", "did you mean 'lower'?", 9),
    "given twice": ("parents", "{lower: [upper, upper]}", "part 'lower' is given 'upper' twice", 9),
    "given key twice": ("parents", "{lower: [upper], lower: []}", "'lower' stands twice", 9),
    "given cycle": ("parents", "{lower: [upper], upper: [lower]}", "upper -> lower -> upper", 9),
    "derived cycle": (
        "[shoulder, elbow]\n  lower: [wrist]", "[shoulder, wrist]\n  lower: [elbow]", "upper -> lower -> upper", 7),
    "bad joint name": ("elbow", "el-bow", "joint name 'el-bow'", 4),
    "bad part name": ("lower", "2nd", "part name '2nd'", 8),
    "long name": ("elbow", "e" * 65, "up to 63", 4),
    "non-ascii name": ("elbow", "ellenbogen\u00e4", "joint name", 4),
    "unknown key": (
        "given:", "gives:", "unknown key 'gives'; a skeleton has name, joints, parts, given; did you mean 'given'?", 9),
    "missing name": ("name: arm\n", "", "'name' is missing", 1),
    "anchor": ("[wrist]", "&a [wrist]", "anchors", 8),
    "alias": ("[wrist]", "*a", "anchors and aliases are not read", 8),
    "merge": ("  lower: [wrist]", "  <<: {lower: [wrist]}", "merge keys", 8),
    "tag": ("[wrist]", "!!python/object:os.system [wrist]", "tags are not read", 8),
    "scalar tag": ("name: arm", "name: !!str arm", "tags are not read", 1),
    "second document": ("given: parents", "given: parents\n---\nname: b", "second document", 10),
    "parts list": ("\n  upper: [shoulder, elbow]\n  lower: [wrist]", " [shoulder]", "'parts' must be a mapping", 6),
    "joint list": ("lower: [wrist]", "lower: wrist", "part lower must be a list [a, b, c], not 'wrist'", 8),
    "nested entry": ("lower: [wrist]", "lower: [[wrist]]", "part lower must be one name, not a sequence", 8),
    "key is a list": ("  lower: [wrist]", "  ? [wrist]\n  : [wrist]", "a key of 'parts' must be one name", 8),
    "parent is a list": ("wrist: elbow", "wrist: [elbow]", "the parent of wrist must be one name", 5),
    "not yaml": ("lower: [wrist]", "lower: [wrist", "not YAML", 9),
    "tab": ("  lower", "\tlower", "not YAML: a tab; indent with spaces", 8),
    "tab after spaces": ("  elbow", "  \telbow", "not YAML: a tab; indent with spaces", 4),
    "no colon": ("elbow: shoulder", "elbow shoulder", "'elbow shoulder' has no ': ' after its name; write", 4),
    "no colon, first": ("shoulder: null", "shoulder null", "'shoulder null' has no ': '", 3),
    "no colon, last": ("wrist: elbow", "wrist elbow  # a: b", "'wrist elbow' has no ': '", 5),
    "no colon, list": ("lower: [wrist]", "lower [wrist]", "'lower [wrist]' has no ': '", 8),
    "no colon, key": ("joints:", "joints", "'joints' has no ': '", 2),
    "no colon, end": ("given: parents\n", "given", "'given' has no ': '", 9),
    "no colon, top": ("name: arm", "name arm\n\n# c", "'name arm' has no ': '", 1),
    "no space": ("elbow: shoulder", "elbow:shoulder", "'elbow:shoulder' has no ': '", 4),
    "no space in braces": (
        "\n  shoulder: null\n  elbow: shoulder\n  wrist: elbow", " {shoulder: null, elbow:shoulder, wrist: elbow}",
        "up to 63 letters, digits or '_'; between a name and its value stands ': '", 2),
    "no colon at all": (
        "\n  shoulder: null\n  elbow: shoulder\n  wrist: elbow", "\n  shoulder null\n  elbow shoulder",
        "joints is 'shoulder null elbow shoulder', expected a mapping (name: parent), or the name of another", 3),
    "two colons": ("wrist: elbow", "wrist: elbow: x", "one 'name: value' stands on a line, as far in as its", 5),
    "too far in": ("  wrist: elbow", "   wrist: elbow", "one 'name: value' stands on a line, as far in as its", 5),
    "a list that does not end": ("[shoulder, elbow]", "[shoulder, elbow", "flow sequence of line 7", 8),
    "null in quotes": (
        "shoulder: null", 'shoulder: "null"', "the root's parent is written null, without quotes", 3),
    "null as others write it": ("shoulder: null", "shoulder: nil", "the root's parent is written null", 3),
    "control character": ("[wrist]", "[wri\x07st]", "not YAML", None),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_file_line_name_and_mend(case):
    old, new, message, line = REFUSED[case]
    text = ARM.replace(old, new)
    assert text != ARM
    with pytest.raises(ValueError) as error:
        parse(text, "arm.yaml")
    assert message in str(error.value)
    assert str(error.value).startswith(f"arm.yaml:{line}: " if line else "arm.yaml: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("null", "must be a mapping"),
        ("name: a\njoints: {}\nparts: {a: []}", "at least one joint"),
        ("name: a\njoints: {a: null}\nparts: {}", "at least one part"),
    ],
)
def test_empty_things(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_python_made_skeletons_are_held_to_the_same():
    with pytest.raises(ValueError, match=r"skeleton 'arm': .*'elbow' is in no part|in no part: 'elbow'"):
        Skeleton("arm", ("shoulder", "elbow"), (None, "shoulder"), (Part("upper", ("shoulder",)),))
    with pytest.raises(ValueError, match="joint 'a' is declared twice"):
        Skeleton("arm", ("a", "a"), (None, "a"), (Part("upper", ("a",)),))
    with pytest.raises(ValueError, match="2 joints but 1 parents"):
        Skeleton("arm", ("a", "b"), (None,), (Part("upper", ("a", "b")),))
    with pytest.raises(ValueError, match="'none', which is not a joint; the root's parent is None"):
        Skeleton("arm", ("a",), ("none",), (Part("p", ("a",)),))
    with pytest.raises(ValueError, match="names part 'p' twice"):
        Skeleton("arm", ("a",), (None,), (Part("p", ("a",)),), (("p", ()), ("p", ())))


@given(damaged())
def test_one_edit_of_a_sound_skeleton_is_refused_by_name(edit):
    assert_refused_by_name(*edit)


@pytest.mark.parametrize("check", ["_check_names", "_check_tree", "_check_partition", "_check_given"])
def test_the_law_of_refusals_can_fail(check, monkeypatch):
    monkeypatch.setattr(kinlmr.skeleton, check, lambda skeleton: None)
    once = settings(database=None, phases=[Phase.generate], report_multiple_bugs=False, max_examples=200)
    with pytest.raises((AssertionError, KeyError)):
        once(given(damaged())(lambda edit: assert_refused_by_name(*edit)))()


def test_a_skeleton_prints_what_it_is():
    assert repr(load_skeleton("smpl.yaml")) == "Skeleton('smpl': 24 joints, 6 parts, given parents)"
    assert repr(replace(parse(ARM), given={"lower": ["upper"]})) == (
        "Skeleton('arm': 3 joints, 2 parts, given by a mapping)"
    )


# ----------------------------------------------------------------------------------------- the joints of another's file

OWN = "name: own\njoints: arm.yaml\nparts: {all: [shoulder, elbow, wrist]}\n"


@pytest.fixture
def own(tmp_path):
    """A skeleton that names the joints of one beside it."""
    (tmp_path / "arm.yaml").write_text(ARM)
    (tmp_path / "own.yaml").write_text(OWN)
    return tmp_path / "own.yaml"


def test_joints_may_be_those_of_another_skeleton(own, monkeypatch):
    skeleton = load_skeleton(own)
    assert (skeleton.joints, skeleton.parents) == (parse(ARM).joints, parse(ARM).parents)
    assert skeleton.to_yaml().startswith("name: own\njoints:\n  shoulder: null\n")
    monkeypatch.chdir(own.parent)
    assert load_skeleton("own.yaml") == skeleton == parse(skeleton.to_yaml())


@pytest.mark.parametrize("kind", ["chain", "independent", "ktd", "pairs", "single"])
def test_ablations_have_smpls_joints_whatever_lies_here(kind, own, monkeypatch):
    smpl = load_skeleton("smpl.yaml")
    own.with_name("smpl.yaml").write_text(ARM)
    monkeypatch.chdir(own.parent)
    ablation = load_skeleton(f"smpl_{kind}.yaml")
    assert (ablation.joints, ablation.parents) == (smpl.joints, smpl.parents)


def test_the_file_beside_comes_before_the_installed_one(own):
    text = OWN.replace("arm.yaml", "smpl.yaml")
    own.write_text(text)
    with pytest.raises(ValueError, match="'shoulder', which is not a joint"):
        load_skeleton(own)
    own.with_name("smpl.yaml").write_text(ARM)
    assert load_skeleton(own).joints == parse(ARM).joints
    with pytest.raises(ValueError, match="'shoulder', which is not a joint"):
        parse(text)  # a text lies nowhere: installed ones alone


NAMED = {
    # what is wrong: (change of own.yaml, change of arm.yaml, how the message begins)
    "a path": (("arm.yaml", "./arm.yaml"), None, "own.yaml:2: joints is './arm.yaml', expected a mapping"),
    "a path up": (("arm.yaml", "..arm.yaml"), None, "own.yaml:2: joints is '..arm.yaml', expected a mapping"),
    "a path of Windows": (("arm.yaml", r"x\arm.yaml"), None, "own.yaml:2: joints is "),
    "a drive": (("arm.yaml", "c:arm.yaml"), None, "own.yaml:2: joints is 'c:arm.yaml'"),
    "no ending": (("arm.yaml", "smpl"), None, "own.yaml:2: joints is 'smpl'"),
    "near": (
        ("arm.yaml", "amr.yaml"),
        None,
        "own.yaml:2: no skeleton 'amr.yaml': no such file, and the installed ones",
    ),
    "itself": (("arm.yaml", "own.yaml"), None, "own.yaml:2: own.yaml:2: 'joints' of a skeleton that another one names"),
    "empty": (("arm.yaml", ""), None, "own.yaml:2: 'joints' must be a mapping (name: parent), not ''"),
    "its part": (("wrist]", "wirst]"), None, "own.yaml:3: part 'all' has 'wirst', which is not a joint; did you"),
    "not all": ((", wrist]", "]"), None, "own.yaml:2: arm.yaml:5: in no part: 'wrist'"),
    "two levels": (None, ("joints:", "joints: smpl.yaml\nx:"), "own.yaml:2: arm.yaml:3: unknown key 'x'"),
    "no skeleton": (None, ("parts:", "part:"), "own.yaml:2: arm.yaml:6: unknown key 'part'"),
    "no YAML": (None, ("  wrist", "\twrist"), "own.yaml:2: arm.yaml:5: not YAML: a tab"),
    "a cycle": (None, ("shoulder: null", "shoulder: wrist"), "own.yaml:2: arm.yaml:3: joints hang on one another"),
    "an unknown parent": (None, ("wrist: elbow", "wrist: elbov"), "own.yaml:2: arm.yaml:5: joint 'wrist' hangs on"),
    "a name twice": (None, ("wrist: elbow", "elbow: shoulder"), "own.yaml:2: arm.yaml:5: 'elbow' stands twice"),
}


@pytest.mark.parametrize("case", NAMED)
def test_refusals_name_both_files_and_lines(case, own, monkeypatch):
    here, there, message = NAMED[case]
    if here:
        own.write_text(OWN.replace(*here))
    if there:
        own.with_name("arm.yaml").write_text(ARM.replace(*there))
    monkeypatch.chdir(own.parent)
    with pytest.raises(ValueError) as error:
        load_skeleton("own.yaml")
    assert str(error.value).startswith(message)


def test_the_nearest_name_may_lie_beside(own):
    own.write_text(OWN.replace("arm", "amr"))
    with pytest.raises(ValueError, match=r"did you mean 'arm\.yaml'\?"):
        load_skeleton(own)


def test_a_file_that_is_named_is_read_as_any_other(own):
    own.with_name("arm.yaml").write_bytes(b"name: arm\njoints: {\xe9: null}\n")
    with pytest.raises(ValueError, match=r"own\.yaml:2: arm\.yaml:2: not UTF-8"):
        load_skeleton(own)
    own.with_name("arm.yaml").write_text("#" * (MAX_BYTES + 1))
    with pytest.raises(ValueError, match=r"own\.yaml:2: arm\.yaml: larger than 4 MB"):
        load_skeleton(own)
    own.with_name("arm.yaml").unlink()
    own.with_name("arm.yaml").mkdir()
    with pytest.raises(ValueError, match=r"own\.yaml:2: no skeleton 'arm\.yaml'"):
        load_skeleton(own)


def test_lists_iterators_and_a_dict_make_the_same_skeleton():
    loose = Skeleton(
        "arm", iter("ab"), [None, "a"], [Part("p", ["a"]), Part("q", iter("b"))], {"q": ["p"], "p": iter("")}
    )
    strict = Skeleton(
        "arm", ("a", "b"), (None, "a"), (Part("p", ("a",)), Part("q", ("b",))), (("q", ("p",)), ("p", ()))
    )
    assert loose == strict
    assert hash(loose) == hash(strict)


def test_too_large_a_file_is_not_read(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_text("#" * (MAX_BYTES + 1))
    with pytest.raises(ValueError, match="larger than 4 MB"):
        load_skeleton(path)


@pytest.mark.parametrize("shape", ["chain", "star", "comb"])
def test_ten_thousand_joints(shape):
    above = {"chain": lambda i: i - 1, "star": lambda i: 0, "comb": lambda i: max(i - 2, 0)}[shape]
    names = [f"joint_{i}" for i in range(10_000)]
    parents = (None, *(names[above(i)] for i in range(1, 10_000)))
    parts = tuple(Part(f"part_{i}", (name,)) for i, name in enumerate(names))
    skeleton = Skeleton("large", tuple(names), parents, parts)
    assert parse(skeleton.to_yaml()) == skeleton


def test_files_that_are_no_text_or_not_there(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: arm\njoints: {\xe9: null}\n")
    with pytest.raises(ValueError, match=r"latin\.yaml:2: not UTF-8"):
        load_skeleton(path)
    with pytest.raises(FileNotFoundError, match=r"no skeleton 'smlp\.yaml'.* flame\.yaml, .*mean 'smpl\.yaml'\?"):
        load_skeleton("smlp.yaml")
    with pytest.raises(FileNotFoundError, match="no skeleton"):
        load_skeleton(tmp_path)
    with pytest.raises(FileNotFoundError, match="no skeleton 'aaa.*installed ones are"):
        load_skeleton("a" * 5000)  # no system has such a name


def test_the_skeletons_of_a_wheel_lie_inside_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr("kinlmr.skeleton.resources.files", lambda package: tmp_path / package)
    (tmp_path / "kinlmr/skeletons").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"no skeleton 'arm\.yaml': no such file, and none is installed"):
        load_skeleton("arm.yaml")
    (tmp_path / "kinlmr/skeletons/arm.yaml").write_text(ARM)
    assert installed() == ("arm.yaml",)
    assert load_skeleton("arm.yaml").name == "arm"


@given(st.text(max_size=60), st.integers(0, len(ARM)), st.integers(0, 20))
def test_any_text_gives_a_skeleton_or_a_named_refusal(junk, at, cut):
    try:
        parse(ARM[:at] + junk + ARM[at + cut :], "arm.yaml")
    except ValueError as error:
        assert str(error).startswith("arm.yaml")  # noqa: PT017


def test_limits_are_exact(monkeypatch):
    events = len(list(yaml.parse(ARM)))
    for name, most in (("MAX_DEPTH", 3), ("MAX_NODES", events - 1), ("MAX_BYTES", len(ARM))):
        with monkeypatch.context() as patch:
            patch.setattr(documents, name, most)
            assert parse(ARM).name == "arm"
            patch.setattr(documents, name, most - 1)
            with pytest.raises(ValueError, match="nested deeper|more than|larger than"):
                parse(ARM)


def test_parts_that_are_given_nothing():
    assert replace(parse(ARM), given="none").part_graph() == {"upper": (), "lower": ()}


def test_a_long_cycle_is_shown_by_its_ends():
    names = [f"j{i}" for i in range(12)]
    with pytest.raises(ValueError) as error:
        Skeleton("ring", tuple(names), (names[-1], *names[:-1]), (Part("all", tuple(names)),))
    ring = ["j0", *reversed(names)]
    assert f": {' -> '.join([*ring[:6], '... 1 more ...', *ring[-6:]])}; one of them" in str(error.value)
    twelve = [*names[:11]]
    with pytest.raises(ValueError, match=" -> ".join(["j0", *reversed(twelve)])):
        Skeleton("ring", tuple(twelve), (twelve[-1], *twelve[:-1]), (Part("all", tuple(twelve)),))


def test_eight_lost_joints_are_named_and_the_others_counted():
    for lost, end in ((8, "'j8'; every"), (9, "'j8' and 1 more; every")):
        names = [f"j{i}" for i in range(lost + 1)]
        with pytest.raises(ValueError, match=f"in no part: 'j1', .*{end}"):
            Skeleton("lost", tuple(names), (None, *names[:-1]), (Part("all", ("j0",)),))


def test_a_cycle_of_given_parts_stands_on_its_line():
    parts = ARM.replace("[shoulder, elbow]", "[shoulder]\n  middle: [elbow]")
    text = parts.replace("given: parents", "given:\n  upper: []\n  lower: [middle]\n  middle: [lower]")
    with pytest.raises(ValueError, match=r"^arm\.yaml:13: parts are given one another: middle -> lower -> middle"):
        parse(text, "arm.yaml")
