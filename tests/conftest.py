import torch
from hypothesis import HealthCheck, settings

settings.register_profile("kinlmr", deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kinlmr")
torch.set_num_threads(1)
