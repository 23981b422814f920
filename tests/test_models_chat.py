"""Chat templates, against transformers' own rendering of them."""

import json

import pytest
import tokenizers
import transformers

from probejax import models
from probejax.models import chat

GEMMA = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' }}"
    "{{ message['content'] | trim }}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
DATED = (
    "{%- if strftime_now is defined %}\n  {%- set today = strftime_now('%d %b %Y') %}\n"
    "{%- else %}\n  {%- set today = '26 Jul 2024' %}\n{%- endif %}\n"
    "{{- 'Today is ' + today }}\n{%- for m in messages %}\n  {{- m.content }}\n{%- endfor %}\n"
)
LINES = """{% for message in messages %}
    {% if message['role'] == 'system' %}{% continue %}{% endif %}
[INST] {{ message['content'] }} [/INST]
{% endfor %}
"""
MARKED = (
    "{% for message in messages %}{% if message.role == 'user' %}<u>{{ message.content }}</u>"
    "{% generation %}{% set x = 1 %}<a>{{ message.content }}</a>{% endgeneration %}{{ x }}"
    "{% endif %}{% endfor %}"
)
TOOLS = (
    "{% if tools is not none %}{{ tools | length }} tools{% endif %}{% if documents is not none %}"
    "{{ documents[0] }}{% endif %}{% if tools is defined %}asked{% endif %}"
    "{{ messages[0].content }}"
)
AS_JSON = "{{ messages | tojson }}{{ messages[0].content | tojson(indent=2) }}"
PROMPTS = ["hi", "  two\nlines {{ 1 }} <end_of_turn>", ""]


def theirs(template, prompts):
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.BPE()), bos_token=""
    )
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    return tokenizer.apply_chat_template(chats, chat_template=template, tokenize=False)


def smollm2():
    return models.find("smollm2-135m").chat_template


@pytest.mark.parametrize("template", [lambda: GEMMA, lambda: LINES, lambda: MARKED,
                                      lambda: TOOLS, smollm2])  # fmt: skip
def test_turns_are_those_of_transformers(template):
    found = chat.turns(template(), PROMPTS, "m")
    assert found == theirs(template(), PROMPTS)
    assert all(prompt.strip() in turn for prompt, turn in zip(PROMPTS, found, strict=True))


def test_values_become_json_as_in_transformers():
    prompts = ['<it\'s> & "ü"']
    assert chat.turns(AS_JSON, prompts, "m") == theirs(AS_JSON, prompts)


@pytest.mark.parametrize(
    "template, expected",
    [
        (DATED, "Today is 26 Jul 2024hi"),  # its own
        ("{{ strftime_now('%Y-%m-%d') }} {{ messages[0].content }}", "2024-07-26 hi"),
        ("{% if strftime_now is undefined %}none{% endif %}", "none"),
        ("{% if x is undefined %}x{% endif %}{% if messages is defined %}m{% endif %}", "xm"),
    ],
)
def test_no_template_sees_the_date_of_today(template, expected):
    assert chat.turns(template, ["hi"], "m") == [expected]


@pytest.mark.parametrize(
    "template, said",
    [
        ("{% for %}", "Expected"),
        ("{{ raise_exception('no users here') }}", "no users here"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    ],
)
def test_a_template_that_will_not_do(template, said):
    with pytest.raises(ValueError, match=f"^The chat template of m cannot be used .*{said}"):
        chat.turns(template, ["hi"], "m")


def test_where_a_folder_has_it(tmp_path):
    assert chat.of_folder(tmp_path) is None
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({"chat_template": "a"}))
    assert chat.of_folder(tmp_path) == "a"
    several = [{"name": "tool_use", "template": "b"}, {"name": "default", "template": "c"}]
    path.write_text(json.dumps({"chat_template": several}))
    assert chat.of_folder(tmp_path) == "c"
    (tmp_path / "chat_template.jinja").write_text("d")
    assert chat.of_folder(tmp_path) == "d"
