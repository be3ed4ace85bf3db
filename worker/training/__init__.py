"""LoRA fine-tuning: models, tokenization, batches and the loop."""
