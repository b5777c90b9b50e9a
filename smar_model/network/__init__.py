import os

# Read when the library is first imported: encoders come from folders or from what is already on this machine, never
# from the net in the middle of a run.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
