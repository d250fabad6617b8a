"""Property tests are not timed one by one: the machine is shared, and the whole suite has a limit."""

from hypothesis import settings

settings.register_profile("lab", deadline=None)
settings.load_profile("lab")
