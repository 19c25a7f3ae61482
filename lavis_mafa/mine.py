"""`python -m lavis_mafa.mine --cfg-path X.yaml --options a.b=c`: the missing connections of any data set."""

from lavis_mafa.mining_job.job import main

if __name__ == "__main__":
    main()
