"""Every kind of parallelism with every clipper and all other tips, compared with one process."""
