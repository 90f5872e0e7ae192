"""What can be trained: networks, losses and samplers, behind one interface."""
