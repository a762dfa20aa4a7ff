"""Evaluation: a model or anybody's predictions, a ground truth and the metrics -> a report.

=================  ===============================================================================
``label_maps``     label PNGs of any system: which stored value means which class
``coco_maps``      the same from COCO and panoptic JSON
``sources``        which of them a path holds, and which predictions belong to which truth
``scoring``        two folders -> counts per image -> report
``runner``         model and data set -> counts per image -> report; resumable, sharded
``store``          counts per image on disk, safe against kills
``report``         the numbers of a report, and as JSON and Markdown; ``report_html`` as a page
``comparison``     two systems on the same images: the paired test
``published``      tables 1 and 2 of the paper
``similarity``     similarity files for Open-mIoU
=================  ===============================================================================

Scoring somebody's predictions imports neither torch nor a model; only ``runner`` does.
"""
