"""Networks that others have trained: their layers (`resnet`, `efficientnet`), their weights (`weights`)."""
