"""A GAN of points in the plane, whose data and score are known (gan.family toy)."""
