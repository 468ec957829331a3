import zlib

import torch
from hypothesis import HealthCheck, settings

settings.register_profile("kinlmr", deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kinlmr")
torch.set_num_threads(1)


def pytest_runtest_setup(item):
    """A test draws the same numbers in every run, alone or among others: what fails can be run again."""
    torch.manual_seed(zlib.crc32(item.nodeid.encode()))
