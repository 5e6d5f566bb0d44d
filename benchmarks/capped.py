"""Run train_byol.py with the CUDA memory of the process capped, as on a smaller card.

python -m benchmarks.capped GIGABYTES [flags of train_byol.py]
"""

import sys

import torch

import train_byol

if __name__ == "__main__":
    if len(sys.argv) < 2 or not torch.cuda.is_available():
        sys.exit("needs a CUDA device and the cap in GB, as in: python -m benchmarks.capped 8")
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, float(sys.argv[1]) * 1e9 / total))
    sys.exit(train_byol.main(sys.argv[2:]))
