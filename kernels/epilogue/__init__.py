"""What follows a convolution in StyleGAN2's layers."""
