"""Make the class keys that the embedded encoder ships (deterministic, seconds).

python benchmarks/build_class_keys.py src/scanseg/encoders/imagenet_keys.safetensors
"""

import sys

from safetensors.torch import save_file

from scanseg.encoders.embedded import build_class_keys

if __name__ == "__main__":
    keys = build_class_keys().half().contiguous()
    save_file({"keys": keys}, sys.argv[1], metadata={"text_tower": "all-MiniLM-L6-v2"})
    print(f"{sys.argv[1]}: {tuple(keys.shape)} {keys.dtype}")
