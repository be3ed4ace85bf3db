"""What an older child or supervisor would misread carries another number."""

from service.contract.spec import CONTRACT_VERSION, StepSpec


def test_a_spec_names_the_version_of_its_commands_and_events() -> None:
    assert StepSpec.model_fields["contract"].default == CONTRACT_VERSION
