import torch

# The models of the tests are too small to gain from a second thread, and spinning for one slows a busy machine down.
torch.set_num_threads(1)
