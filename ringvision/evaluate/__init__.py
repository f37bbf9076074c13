"""Evaluation: of an assistant's answers, and of a video tokenizer's reconstructions.

world.py            answers about held-out scenes, beside the score of guessing
long_world.py       the same of long videos
needle.py           a card of one second in a long video, by its length and where the card is
text_needle.py      a number in a long text, of a text model
qa.py               questions of public benchmarks: qa_rows.py and qa_formats.py read them, qa_videos.py finds
                    the videos, qa_answers.py tells right from wrong
ruler.py            RULER: how long a text is still used; ruler_tasks.py makes its texts of ruler_words.py
perplexity.py       how well each next token is predicted, by its position; documents.py reads what is scored
visual_requests.py  another program's requests answered; lmms_eval_plugin.py is for lmms-eval, which finds it
                    by lmms_eval_manifest.py
text_model.py       a text model that continues what it is given
filler.py           sentences to hide something among
earlier.py          scores beside those of earlier runs
video_tasks.py      what long_world.py and needle.py share: videos are drawn and asked about
result_log.py       answers on disk as they come, from where a run that was stopped goes on
progress.py         how long the rest of it will take
length_and_depth.py scores by length and depth as a table and, by heatmap.py, as a picture
tokenizer.py        the reconstruction of a library of videos, by all the measures below
reconstruction.py   that of one video, shown next to the original
quality.py          PSNR, SSIM, L1, flicker and code usage
lpips.py            LPIPS, the perceptual distance of two pictures
frechet.py          the Fréchet distance of two sets of features (rFID), which inception.py computes
features.py         what the networks of LPIPS and Inception share: reading weights, layers, batches
side_by_side.py     originals and reconstructions as one video
"""
