"""What may be shown of a generation: whole text, nothing of a stop string."""

from hypothesis import example, given
from hypothesis import strategies as st

from burnish.engine.text import OutputText


class Letters:
    """Token i is letter i; ``held`` more letters are only certain at the end."""

    def __init__(self, held: int = 0) -> None:
        self.held, self.buffer = held, ""

    def push(self, token_id: int) -> str:
        self.buffer += "abc"[token_id]
        cut = max(0, len(self.buffer) - self.held)
        text, self.buffer = self.buffer[:cut], self.buffer[cut:]
        return text

    def finish(self) -> str:
        text, self.buffer = self.buffer, ""
        return text


def shown(tokens: list[int], stop: tuple[str, ...], held: int = 0) -> tuple[str, bool]:
    output = OutputText(Letters(held), stop)
    text = ""
    for token in tokens:
        text += output.push(token)
        assert not any(s in text for s in stop)
        if output.stopped:
            return text, True
    return text + output.finish(), output.stopped


@example(tokens=[0, 2, 1], stop=("c", "acb"), held=2)  # both become complete in one piece
@given(
    tokens=st.lists(st.integers(0, 2), max_size=30),
    stop=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3).map(tuple),
    held=st.integers(0, 3),
)
def test_text_ends_before_the_first_stop_string_to_complete(
    tokens: list[int], stop: tuple[str, ...], held: int
) -> None:
    whole = "".join("abc"[t] for t in tokens)
    text, stopped = shown(tokens, stop, held)
    ends = [whole.index(s) + len(s) for s in stop if s in whole]
    assert stopped == bool(ends)
    if not ends:
        assert text == whole
    else:
        first = whole[: min(ends)]
        assert text == first[: min(first.index(s) for s in stop if s in first)]


def test_a_possible_stop_string_is_held_back_until_it_is_decided() -> None:
    output = OutputText(Letters(), ("aab",))
    assert [output.push(t) for t in (2, 0, 0, 0, 2)] == ["c", "", "", "a", "aac"]
    assert not output.stopped


def test_text_held_back_is_shown_at_the_end() -> None:
    output = OutputText(Letters(), ("abc",))
    assert output.push(0) + output.push(1) == ""
    assert output.finish() == "ab"
