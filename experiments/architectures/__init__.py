"""Study: U-Net against transformer, attention at other lengths, residuals at other depths."""
