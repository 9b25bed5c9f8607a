"""Parts of train.py: what is descended, how gradients come about, what stops a run that cannot learn, what lets a killed one go on."""
