"""A system prompt in a chat template: whatever it holds, the template writes it as it is."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from erpo_ray.engines.instruct import prefixed

TEMPLATE = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}</>{% endfor %}"
# As tokenizers render their templates.
JINJA = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
USER = {"role": "user", "content": "Hello"}


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
@example('Be kind \U0001f642 to "all", {{ even }} {% to %} {# them #} \\n \\U0001f642 \'\n\r\u2028')
def test_a_chat_begins_with_the_system_prompt_to_the_letter(system: str) -> None:
    apart = JINJA.from_string(prefixed(TEMPLATE, system, separate=True))
    assert apart.render(messages=[USER]) == f"<system>{system}</><user>Hello</>"
    inside = JINJA.from_string(prefixed(TEMPLATE, system, separate=False))
    assert inside.render(messages=[USER]) == f"<user>{system}\n\nHello</>"


@pytest.mark.parametrize("separate", [True, False])
def test_a_chat_with_a_system_prompt_of_its_own_keeps_it(separate: bool) -> None:
    own = [{"role": "system", "content": "Be brief."}, USER]
    template = JINJA.from_string(prefixed(TEMPLATE, "Be kind.", separate))
    assert template.render(messages=own) == "<system>Be brief.</><user>Hello</>"
