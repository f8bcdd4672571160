"""Files of class names, in the usual formats."""

import pytest

from cfx_jax.weights import class_names


def write(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "names.txt"
    path.write_text(text, encoding=encoding, newline="")
    return str(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "text",
    [
        "Katze\nHund\nBär",
        "Katze\r\nHund \r\nBär\r\n\r\n",
        "0 Katze\n1 Hund\n2 Bär\n",
        "2: Bär\n0: Katze\n1: Hund\n",
        "Bär 2\nKatze 0\nHund 1\n",
        "0,Katze\n1,Hund\n2,Bär\n",
        "0 - Katze\n1 - Hund\n2 - Bär\n",
        '["Katze",\n"Hund", "Bär"]',
        '{"2": "Bär",\n"0": "Katze",\n"1": "Hund"\n}\n',
    ],
)
def test_class_names_are_in_the_order_of_the_classes(text, encoding, tmp_path):
    assert class_names.read(write(tmp_path, text, encoding)) == ["Katze", "Hund", "Bär"]


@pytest.mark.parametrize(
    "names",
    [
        ["0", "1", "2"],
        ["30 km/h", "50 km/h", "70 km/h"],
        ["0 tench", "goldfish"],
        ["tabby, tabby cat", "3D printer"],
        ["a", "a"],
        ["class 0", "class 2", "class 1"],
        ["gate 1", "gate 2"],
    ],
)
def test_class_names_may_be_numbers(names, tmp_path):
    assert class_names.read(write(tmp_path, "\n".join(names))) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty; expected one class name per line"),
        ("a\n\nc\n", "line 2 is empty, which would shift"),
        ("\na\n", "line 1 is empty"),
        ("1 a\n2 b\n", "of 2 numbered names, 0 is missing; expected each of 0 to 1 once"),
        ("0 a\n9 b\n", "1 is missing"),
        ("0 a\n0 b\n", "0 is repeated"),
        ("[1, 2]", "its JSON is not a list"),
        ('["a", ""]', "its JSON is not a list"),
        ("[]", "its JSON is not a list"),
        ('{"0": ["n01440764", "tench"]}', "its JSON is not a list or an object of names"),
        ('{"tench": "0"}', "the key 'tench' of its JSON is not a number"),
        ('{"1": "a", "2": "b"}', "0 is missing"),
        ('{"0": "a", "00": "b"}', "0 is repeated"),
        ('["a", "b"', "it starts like JSON but is not valid"),
    ],
)
def test_class_names_refuse_other_content(text, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        class_names.read(write(tmp_path, text))
    assert "\n" not in str(caught.value)
