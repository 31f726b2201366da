"""open_clip_train's own main on a model that is not in its list: `train.py CONFIG.json ARGUMENT...`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    import open_clip
    from open_clip_train.main import main

    open_clip.add_model_config(sys.argv[1])
    main(sys.argv[2:])
