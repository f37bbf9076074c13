"""A chat template writes a conversation as its model was trained on it, and can do nothing else."""

import json
import os
import time
from pathlib import Path

import pytest

from ringvision.data.text import chat_template
from ringvision.data.text.chat_template import ChatTemplate, load_chat_template
from ringvision.errors import UserError

TURNS = [
    {"role": "user", "content": "Hi <b>"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "é?"},
]
CHATML = (
    "{%- for message in messages %}\n    {{- '<|im_start|>' + message['role'] + '\\n' + "
    "message.content | trim + '<|im_end|>\\n' }}\n"
    "{%- endfor %}\n{% if add_generation_prompt %}\n{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def test_a_conversation_is_written_as_the_template_says() -> None:
    template = ChatTemplate(CHATML)
    whole = (
        "<|im_start|>user\nHi "
        "<b><|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\né?<|im_end|>\n"
    )
    assert template.render(TURNS) == whole + "<|im_start|>assistant\n"
    assert template.render(TURNS, add_generation_prompt=False) == whole


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ bos_token }}{{ pad_token }}{{ eos_token }}", "<s>P</s>"),
        (
            "{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
            "user",
        ),
        ("{% generation %}{{ messages[1].content }}{% endgeneration %}", "Hello"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "Hi <b>"}'),
        (
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% "
            "endfor %}{{ ns.n }}",
            "3",
        ),
        ("{{ strftime_now('%Y') }}", time.strftime("%Y")),
        ("{{ tools is defined }}{{ nothing }}", "False"),
        ("    {%- if true %}\n  {% endif %}\nx", "x"),
    ],
)
def test_what_templates_use_is_there(source: str, text: str) -> None:
    assert ChatTemplate(source, bos="<s>", eos="</s>", variables={"pad_token": "P"}).render(TURNS) == text


HOSTILE = {
    "{{ ''.__class__.__mro__[1].__subclasses__() }}": "does what it must not",
    "{{ cycler.__init__.__globals__.os.system('true') }}": "does what it must not",
    "{{ messages.append(1) }}": "does what it must not",
    "{{ 'x' * 10 ** 10 }}": "needs more than 512 MB",
    "{{ 'x'.center(10 ** 10) }}": "needs more than 512 MB",
    "{{ '%9999999999d' % 1 }}": "needs more than 512 MB",
    "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x "
    "%}{% endfor %}": "needs more than 512 MB",
    "{% for i in range(9999) %}{{ 'x' * 10000 }}{% endfor %}": "writes more than",
    "{% for i in range(10 ** 9) %}{% endfor %}": "failed",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "failed",
    "{% include '/etc/passwd' %}": "failed",
    "{{ " + "(" * 50_000 + ")" * 50_000 + " }}": "failed",
    "{{ '\\ud800' }}": "failed",
    "{{ messages | nosuchfilter }}": "is no template",
    "{% if %}": "is no template",
    "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}": "failed",
    "{% import 'os' as os %}": "failed",
    "{{ strftime_now('%' * 10 ** 9) }}": "needs more than 512 MB",
    "{{ raise_exception('x' * 10 ** 8) }}": r"refuses these messages \(x{200}\)",
    "{{ raise_exception('\\x1b[2J\n\u202e') }}": r"refuses these messages \( \[2J  \)",
    "{{ raise_exception('take turns') }}": r"refuses these messages \(take turns\)",
}


@pytest.mark.parametrize("source", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_template_is_an_error_and_no_more(source: str) -> None:
    template = ChatTemplate(source)
    for _ in range(2):
        with pytest.raises(UserError, match=HOSTILE[source]) as raised:
            template.render(TURNS)
        assert str(raised.value).isprintable() and len(str(raised.value)) < 500


@pytest.mark.parametrize(
    "source",
    [
        "{{ '{0.__class__}'.format(1) }}",
        "{{ '{0.__class__}' | attr('format')(1) }}",
        "{{ messages | map(attribute='__class__') | join }}",
        "{{ self._TemplateReference__context }}",
        "{{ '' | attr('__class__') }}",
        "{{ messages[0]['__cla' ~ 'ss__'] }}",
    ],
)
def test_what_leads_to_a_class_leads_to_nothing(source: str) -> None:
    assert not set(ChatTemplate(source).render(TURNS)) & set("<>")


def test_a_template_without_end_is_ended_and_another_rendering_goes_on() -> None:
    slow = (
        "{% if messages | length == 3 %}{% for i in range(99999) %}{% for j in range(99999) "
        "%}{% endfor %}{% endfor %}{% endif %}done"
    )
    template = ChatTemplate(slow, seconds=1.0)
    began = time.monotonic()
    with pytest.raises(UserError, match="not rendered within 1 s"):
        template.render(TURNS)
    assert time.monotonic() - began < 5
    assert template.render(TURNS[:1]) == "done"


def test_the_process_has_no_file_to_open(tmp_path: Path) -> None:
    """What got out of the sandbox would still be in a process that can open nothing."""
    template = ChatTemplate("x")
    template.render(TURNS)
    assert template._process is not None
    limits = Path(f"/proc/{template._process._child.pid}/limits").read_text()
    soft = {line[:26].strip(): line[26:].split()[0] for line in limits.splitlines()}
    assert (soft["Max open files"], soft["Max file size"], soft["Max core file size"]) == ("0", "0", "0")
    assert int(soft["Max address space"]) == 512 << 20


def test_the_process_is_started_once_and_ends_with_the_template() -> None:
    template = ChatTemplate("{{ messages | length }}")
    assert [template.render(TURNS), template.render(TURNS[:1])] == ["3", "1"]
    assert template._process is not None
    child = template._process._child
    template._process = None
    assert child.poll() is not None
    assert template.render(TURNS) == "3"
    assert template._process._child.pid != child.pid


def test_long_conversations_pass_through() -> None:
    long = "é" * 500_000
    assert ChatTemplate("{{ messages[0].content }}").render([{"role": "user", "content": long}]) == long


def test_a_folder_tells_its_template(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model to chat with"):
        load_chat_template(tmp_path)
    settings = {
        "chat_template": "{{ bos_token }}one{{ pad_token }}",
        "bos_token": {"content": "<s>"},
        "pad_token": "P",
        "eos_token": None,
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_chat_template(tmp_path).render([]) == "<s>oneP"
    named = [{"name": "tools", "template": "no"}, {"name": "default", "template": "two"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert load_chat_template(tmp_path).render([]) == "two"
    (tmp_path / "chat_template.jinja").write_text("three")
    assert load_chat_template(tmp_path).render([]) == "three"
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        load_chat_template(tmp_path)


def test_a_template_as_long_as_a_book_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "MOST_CHARACTERS", 10)
    with pytest.raises(UserError, match="11 characters"):
        ChatTemplate("x" * 11)


def test_no_process_is_left_behind() -> None:
    def children() -> set[str]:
        return {path.parent.name for path in Path("/proc").glob("[0-9]*/stat") if _is_ours(path)}

    before = children()
    for _ in range(3):
        ChatTemplate("x").render([])
    assert len(children() - before) <= 1


def _is_ours(path: Path) -> bool:
    try:
        fields = path.read_text().rpartition(")")[2].split()
        command = path.with_name("cmdline").read_bytes()
    except OSError:
        return False
    return fields[1] == str(os.getpid()) and b"template_process" in command
