"""f-INE: influence as a hypothesis test (arXiv 2510.10510), measured in the very run that trains.

`PerSampleGradients` forms each sample's LoRA gradient in backward hooks; a `Recorder` contracts them with the probe
gradient and drops them; `statistics` turns what was recorded into mu, z and p.
"""
