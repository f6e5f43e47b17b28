"""The two command-line programs; parsing and printing only."""

import os

# Worker threads that wait by spinning keep a core from whoever shares it: on a busy machine that made products 20 times
# slower, while a short spin costs nothing on a quiet one. OpenMP reads this when torch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
