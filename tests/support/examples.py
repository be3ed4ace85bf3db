"""How many examples a property is tried with: few in every run, all that it asks for in `make test-slow`."""

from hypothesis import HealthCheck, settings

EVERY_RUN = 5
"""An ordinary run tries one in so many. They are the same ones every time, so more of them would find nothing new."""


def examples(thorough: int) -> settings:
    """Settings of a property: `thorough` examples under the profile that explores, fewer under the other."""
    exploring = settings.get_current_profile_name() == "exploring"
    return settings(
        max_examples=thorough if exploring else max(10, thorough // EVERY_RUN),
        deadline=None,
        # A fixture of the test serves all its examples; a property that uses one writes over what the last has left.
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
