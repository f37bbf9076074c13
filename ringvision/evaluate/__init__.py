"""Evaluation: of an assistant's answers, and of a video tokenizer's reconstructions.

world.py            answers about held-out scenes, beside the score of guessing
tokenizer.py        the reconstruction of a library of videos, by all the measures below
reconstruction.py   that of one video, shown next to the original
quality.py          PSNR, SSIM, L1, flicker and code usage
lpips.py            LPIPS, the perceptual distance of two pictures
frechet.py          the Fréchet distance of two sets of features (rFID), which inception.py computes
features.py         what the networks of LPIPS and Inception share: reading weights, layers, batches
side_by_side.py     originals and reconstructions as one video
"""
