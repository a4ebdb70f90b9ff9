"""Makes the smallest wheel there can be, in the directory of its only argument."""

import base64
import hashlib
import pathlib
import sys
import zipfile

INFO = "interop_cup-1.0.dist-info"
FILES = {
    "interop_cup.py": "WORDS = 'a cup from pip'\n",
    f"{INFO}/METADATA": "Metadata-Version: 2.1\nName: interop-cup\nVersion: 1.0\n",
    f"{INFO}/WHEEL": "Wheel-Version: 1.0\nGenerator: interop\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}

record = f"{INFO}/RECORD,,\n"
with zipfile.ZipFile(pathlib.Path(sys.argv[1]) / "interop_cup-1.0-py3-none-any.whl", "w") as wheel:
    for name, text in FILES.items():
        wheel.writestr(name, text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(text)}\n"
    wheel.writestr(f"{INFO}/RECORD", record)
