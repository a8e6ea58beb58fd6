"""3D Gaussian splatting: the model, three renderers behind one function, and the fit to posed views."""
