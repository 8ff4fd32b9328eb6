"""GPU kernels of Optimus: one directory per op, each with a torch reference and one public function."""
