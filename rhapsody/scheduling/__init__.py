"""What runs next, and where: dependencies, the ready queue, the mapper, and the loop over them."""
