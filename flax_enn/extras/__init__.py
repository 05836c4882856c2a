"""What is useful beside epistemic networks: clusters, and autoencoders."""

from flax_enn.extras.kmeans import Clusters, kmeans
from flax_enn.extras.mlp_vae import MLPVAE, train_mlp_vae

__all__ = ['MLPVAE', 'Clusters', 'kmeans', 'train_mlp_vae']
