"""Downloads targets as any user of python-tuf would, from a root and a URL.

Usage: ngclient.py ROOT.json URL FOLDER TARGET...
"""

import sys
from pathlib import Path

from tuf.ngclient import Updater

root, url, folder, *targets = sys.argv[1:]
folder = Path(folder)
metadata = folder / "metadata"
metadata.mkdir(exist_ok=True)
updater = Updater(
    str(metadata),
    f"{url}/metadata/",
    str(folder),
    f"{url}/targets/",
    bootstrap=Path(root).read_bytes(),
)
updater.refresh()
for target in targets:
    info = updater.get_targetinfo(target)
    if info is None:
        sys.exit(f"no role lists {target}")
    updater.download_target(info, str(folder / target.replace("/", "_")))
