"""What is like nothing that was learned from: how unknown a frame is, which frames are, and how they are learned."""
