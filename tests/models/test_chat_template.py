"""Chat templates: rendered as transformers renders them, refused in one line, and bounded."""

import time
from pathlib import Path
from typing import Any

import pytest
import transformers

from burnish.core.errors import BadCheckpoint, BadRequest
from burnish.core.types import Message
from burnish.models.chat_template import MAX_TEXT, ChatTemplate
from burnish.models.tokenizer import load_tokenizer
from tests.models import vocabularies
from tests.models.conftest import shared

CONVERSATION = [Message("system", "Be  brief."), Message("user", "Hi <b>\n'you' 🙂"), Message("assistant", "Ho")]
CONVERSATION += [Message("user", "Bye")]
TOKENS = {"bos_token": "<s>", "eos_token": {"content": "</s>"}}
TEMPLATES = {
    "plain": vocabularies.CHAT,
    "chatml": "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}\n{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "llama2": """{{ bos_token }}{% for m in messages %}
    {%- if m['role'] == 'user' %}[INST] {{ m['content'] | trim }} [/INST]
    {%- elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}
    {%- else %}{% continue %}{% endif %}
{% endfor %}""",
    "filters": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + loop.index %}"
    "{{ m | tojson }}{{ messages | tojson(indent=2) }}{% if ns.n > 3 %}{% break %}{% endif %}{% endfor %}{{ ns.n }}",
    "absent": "{{ tools is none }} {{ documents is none }} {{ undefined_thing }}{% if tools %}T{% endif %}",
    "joins": "{% for m in messages %}{{ loop.index0 ~ '/' ~ loop.length ~ m.role }}{% if not loop.last %}, {% endif %}"
    "{{ '%s: %d' | format(m.content, 3) }}{{ '{}'.format(m.role) }}{{ 7 % 4 }}{{ m.content.split('i') | join('+') }}"
    "{% endfor %}{% for k, v in messages[0].items() %}{{ k ~ v | upper | replace('E', 'ee') }}{% endfor %}"
    "{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f('a') ~ messages | map(attribute='role') | list }}"
    "{% for m in messages[::-1] if m.role != 'user' %}{{ m.content | indent(2) }}{% else %}none{% endfor %}",
    "ranges": "{% for i in range(3) %}{{ messages[i].role * 2 }}{{ 2 ** i }}{% endfor %}",
}


def template(source: str) -> ChatTemplate:
    found = ChatTemplate.find(TOKENS | {"chat_template": source}, Path("nowhere"))
    assert found is not None
    return found


@pytest.mark.parametrize("to_answer", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_rendered_as_transformers_does(name: str, to_answer: bool, tmp_path: Path) -> None:
    folder = vocabularies.gpt2(shared("tokenizers/gpt2"), tmp_path)
    oracle: Any = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<s>", eos_token="</s>"
    )
    messages = [{"role": message.role, "content": message.content} for message in CONVERSATION]
    expected = oracle.apply_chat_template(
        messages, chat_template=TEMPLATES[name], tokenize=False, add_generation_prompt=to_answer
    )
    assert template(TEMPLATES[name]).render(CONVERSATION, to_answer=to_answer) == expected


def test_chat_gives_the_tokens_of_the_rendered_text(tmp_path: Path) -> None:
    codec = load_tokenizer(vocabularies.gpt2(shared("tokenizers/gpt2"), tmp_path))
    text = "user: Hi\nassistant:"
    assert codec.decode(codec.chat([Message("user", "Hi")])) == text
    assert codec.chat([Message("user", "Hi")]) == codec.encode(text, add_special_tokens=False)


def test_where_templates_are_found(tmp_path: Path) -> None:
    file = tmp_path / "chat_template.jinja"
    named = {"chat_template": [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "named"}]}
    assert ChatTemplate.find({}, file) is None
    found = ChatTemplate.find(named, file)
    assert found is not None
    assert found.render([]) == "named"
    file.write_text("from file")
    found = ChatTemplate.find(named, file)
    assert found is not None
    assert found.render([]) == "from file"
    with pytest.raises(BadCheckpoint, match="is no text"):
        ChatTemplate.find({"chat_template": 3}, tmp_path / "absent")


@pytest.mark.parametrize("source", ["{% for %}", "{{ ", "{% unknown %}", "{{ x | nofilter }}"])
def test_templates_that_do_not_compile(source: str) -> None:
    with pytest.raises(BadCheckpoint, match="chat template is broken"):
        template(source)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ raise_exception('roles must\nalternate') }}", "roles must alternate"),
        ("{{ messages[9].content }}", "messages"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages + 3 }}", "can only concatenate"),
        ("{{ messages.append(3) }}", "append"),
        ("{{ ''.__class__.__mro__ }}", "__class__"),
        ("{{ cycler.__init__.__globals__ }}", "__init__"),
        ("{% for i in range(10**9) %}{% endfor %}", "more work"),
        ("{% for i in range(999999999) %}{% endfor %}", "more work"),
        ("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", "more work"),
        ("{{ 'x' * 10000000 }}", "too large a value"),
        ("{{ 9 ** 9999 }}", "too large a value"),
        ("{{ 9 ** 9 ** 9 }}", "too large a value"),
        ("{% for i in range(90) %}{{ 'x' * 100000 }}{% endfor %}", f"text of more than {MAX_TEXT}"),
        ("{% for i in range(9) %}{% for c in 'x' * 99999 %}{% endfor %}{% endfor %}", "more work"),
        (
            "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
            "more work",
        ),
        (
            "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            "more work",
        ),
        (
            "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set x %}{{ ns.x }}{{ ns.x }}{% endset %}"
            "{% set ns.x = x %}{% endfor %}",
            "more work",
        ),
        (
            "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
            "more work",
        ),
        ("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}", "more work"),
        ("{% for i in messages recursive %}{{ loop(messages) }}{% endfor %}", ""),
        ("{% for i in range(9999) %}{% if ('x' * 99999).find('y') %}{% endif %}{% endfor %}", "more work"),
        ("{{ 'x' | center(10 ** 3 * 10 ** 3 * 10 ** 3) }}", "too large a value"),
        ("{{ 'x' | center(999999999) }}", "too large a value"),
        ("{{ 'x'.ljust(999999999) }}", "too large a value"),
        ("{{ ('\t' * 99999).expandtabs(99999) }}", "too large a value"),
        ("{{ ('x' * 99999) | replace('x', 'y' * 99999) }}", "too large a value"),
        ("{{ ('x' * 99999).replace('x', 'y' * 99999) }}", "too large a value"),
        ("{{ ('y' * 99999).join('x' * 99999) }}", "too large a value"),
        ("{{ messages | tojson(indent=999999999) }}", "too large a value"),
        ("{{ '%999999999d' % 1 }}", "too large a value"),
        ("{{ '%*d' | format(999999999, 1) }}", "too large a value"),
        ("{{ '{:999999999}'.format(1) }}", "too large a value"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ '%s' % (1, 2) }}", "not all arguments"),
    ],
)
def test_templates_that_misbehave_are_refused_in_one_line_and_soon(source: str, words: str) -> None:
    started = time.monotonic()
    with pytest.raises(BadRequest) as caught:
        template(source).render(CONVERSATION)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.param == "messages"
    assert time.monotonic() - started < 5


def test_a_model_without_a_template_says_so(stories: Path) -> None:
    with pytest.raises(BadRequest, match=r"no chat template\. Use /v1/completions") as caught:
        load_tokenizer(stories).chat(CONVERSATION)
    assert caught.value.code == "no_chat_template"  # by which the page knows
