"""A short text in front of the prompt of a judge or a teacher, searched for on labelled cases (SoS)."""
