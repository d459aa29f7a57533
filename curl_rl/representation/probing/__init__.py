"""What trained encoders know: every probe on every encoder, with what always stands beside."""
