"""Fine-tuning: an encoder and a head trained together, on the rows, splits and metrics of `heads train`."""
